"""A file that grows by whole records."""

from __future__ import annotations

import os
from pathlib import Path

from models.write_errors import writing


class AppendedFile:
    """What is written is in the file as a whole or not at all, and at once.

    Args:
        path: made where it is not there yet.

    Raises:
        WriteError: here and in every method: the disk is full, say.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def write(self, record: bytes) -> None:
        """Append a record; where that fails, the file is as it was."""
        with writing(self._path, len(record)):
            before = os.fstat(self._file.fileno()).st_size
            left = memoryview(record)
            try:
                while left:
                    left = left[self._file.write(left) :]
            except BaseException:
                os.ftruncate(self._file.fileno(), before)
                raise

    def sync(self) -> None:
        """Return when all records would survive a power cut."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more records."""
        with writing(self._path):
            self._file.close()
