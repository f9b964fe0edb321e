"""What was found broken while training: counted, named in a file, and too much when it is too much."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.errors import UnusableDataError

MIN_READ = 1000
"""The share of broken ones is taken of at least so many, so that a bad start does not end a run."""


class Quarantine:
    """Counts what is read and what of it is broken; every data worker has its own.

    Args:
        file: gets a line of JSON for each broken sample or image, once; None: nothing is written.
        max_broken: the share that may be broken.
    """

    def __init__(self, file: Path | None, max_broken: float) -> None:
        self.num_read = 0
        self.num_broken = 0
        self._file = file
        self._max_broken = max_broken
        self._named: set[str] = set()

    def count(self) -> None:
        """Another sample or image is about to be read."""
        self.num_read += 1

    def add(self, source: str, name: str, reason: str) -> None:
        """It was broken. Raises UnusableDataError."""
        self.num_broken += 1
        if self._file is not None and name not in self._named:
            self._named.add(name)
            line = json.dumps({"source": source, "name": name, "reason": reason})
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")  # in one write, so that the lines of several workers do not mix
        if self.num_broken > self._max_broken * max(self.num_read, MIN_READ):
            where = f"All are named in {self._file}; the last" if self._file is not None else "The last"
            raise UnusableDataError(
                f"{self.num_broken} of {self.num_read} samples and images read are broken, more than the share of "
                f"{self._max_broken:g} that corpus.max_broken allows. {where}: {name}: {reason}"
            )
