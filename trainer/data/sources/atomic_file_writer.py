"""A file that is written from front to back, and is either whole or missing."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from models.atomic_files import UNFINISHED, put_in_place
from models.write_errors import writing


class AtomicFileWriter:
    """Writes a file under another name, and gives it its own when the block ends without an error.

    Args:
        file: the final name.
        num_bytes: how many it will have, if that is known: a message may say so.

    Raises:
        WriteError: it cannot be written, here and in every method.
    """

    def __init__(self, file: Path, num_bytes: int | None = None) -> None:
        self.num_bytes = 0
        """Written so far."""

        self._file = file
        self._expected = num_bytes
        # A process that was left over from a killed command may still be at work.
        self._unfinished = file.with_name(f"{file.name}.{os.getpid()}{UNFINISHED}")
        with writing(file, num_bytes):
            self._stream = self._unfinished.open("wb")

    def append(self, data: bytes) -> int:
        """Write on; returns the byte at which `data` begins."""
        start = self.num_bytes
        with writing(self._file, self._expected or start + len(data)):
            self._stream.write(data)
        self.num_bytes += len(data)
        return start

    def __enter__(self) -> AtomicFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self._file, self._expected or self.num_bytes):
                try:
                    self._stream.close()
                except OSError:
                    if error is None:
                        raise
                if error is None:
                    put_in_place(self._unfinished, self._file)
        finally:
            self._unfinished.unlink(missing_ok=True)
