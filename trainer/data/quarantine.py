"""What was found broken while training: counted, named in a file, and too much when it is too much."""

from __future__ import annotations

import fcntl
import json
from contextlib import suppress
from pathlib import Path
from typing import IO

from models.printable import printable
from models.write_errors import writing
from trainer.errors import UnusableDataError

MIN_READ = 1000
"""The share of broken ones is taken of at least so many, so that a bad start does not end a run."""


class Quarantine:
    """Counts what is read and what of it is broken; every data worker has its own.

    Args:
        file: gets a line of JSON for each broken sample or image, once, whichever worker, process or part of a run
            meets it first; None: nothing is written.
        max_broken: the share that may be broken.
    """

    def __init__(self, file: Path | None, max_broken: float) -> None:
        self.num_read = 0
        self.num_broken = 0
        self._file = file
        self._max_broken = max_broken
        self._named: set[tuple[str, str]] = set()
        """Sources and names in the file, as far as it has been read."""

        self._position = 0
        """In the file, how far that is."""

    def count(self, number: int = 1) -> None:
        """So many more samples or images are read."""
        self.num_read += number

    def add(self, source: str, name: str, reason: str) -> None:
        """It was broken.

        Raises:
            UnusableDataError: too much is.
            WriteError: the file cannot be written.
        """
        self.num_broken += 1
        if self._file is not None and (source, name) not in self._named:
            with writing(self._file), self._file.open("a+b") as file:
                with suppress(OSError):  # not every network file system has locks; the worst is a line twice
                    fcntl.flock(file, fcntl.LOCK_EX)
                separator = self._read_on(file)
                if (source, name) not in self._named:
                    line = json.dumps({"source": source, "name": name, "reason": reason})
                    file.write(separator + line.encode() + b"\n")
                    file.flush()
        if self.num_broken > self._max_broken * max(self.num_read, MIN_READ):
            where = f"All are named in {printable(str(self._file))}; the last" if self._file is not None else "The last"
            raise UnusableDataError(
                f"{self.num_broken} of {self.num_read} samples and images read are broken, more than the share of "
                f"{self._max_broken:g} that corpus.max_broken allows. {where}: {printable(name)}: {printable(reason)}"
            )

    def _read_on(self, file: IO[bytes]) -> bytes:
        """Learn what others have named since, and before this run went on; returns what has to stand before the next
        line, where the last one was cut off."""
        file.seek(self._position)
        for line in file:
            if not line.endswith(b"\n"):
                return b"\n"
            self._position += len(line)
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                fields = json.loads(line)
                self._named.add((str(fields["source"]), str(fields["name"])))
        return b""
