"""Where in the order of a source each of its rows begins. How many samples a row takes is known only by filling it, so
row after row has to be filled, by lengths alone; whoever gets to a row first writes down where it begins.

It is a function of the settings, and the file only saves doing it again: a lost or damaged one is made anew.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from models.write_errors import writing

_ENTRY = struct.Struct("<Q")


class RowStarts:
    """`starts(rank)` is the position of the first sample of a source's row number `rank`.

    Args:
        next_row: from the start of a row to that of the next one.
        file: shared by all processes; None: only this one knows.
    """

    def __init__(self, next_row: Callable[[int], int], file: Path | None) -> None:
        self._next_row = next_row
        self._file = file
        self._known = [0]
        """Without a file."""

    def __call__(self, rank: int) -> int:
        """Where a row begins.

        Raises:
            WriteError: the file cannot be written.
        """
        if self._file is None:
            while len(self._known) <= rank:
                self._known.append(self._next_row(self._known[-1]))
            return self._known[rank]
        if (start := self._read(rank)) is None:
            self._extend(self._file, rank)
            start = self._read(rank)
            assert start is not None
        return start

    def learn(self, rank: int, start: int) -> None:
        """Where a row begins, told by who has found out by making the row before it.

        Raises:
            WriteError: the file cannot be written.
        """
        if self._file is None:
            if rank == len(self._known):
                self._known.append(start)
        elif self._read(rank) is None:
            self._extend(self._file, rank, start)

    def _read(self, rank: int) -> int | None:
        if rank == 0:
            return 0
        assert self._file is not None
        try:
            with self._file.open("rb") as file:
                file.seek((rank - 1) * _ENTRY.size)
                data = file.read(_ENTRY.size)
        except FileNotFoundError:
            return None
        return _ENTRY.unpack(data)[0] if len(data) == _ENTRY.size else None

    def _extend(self, path: Path, rank: int, known_start: int | None = None) -> None:
        """Write down where rows begin, up to this one, whose start may be known."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            num_known = os.fstat(file).st_size // _ENTRY.size
            while num_known and self._read(num_known) == 0:  # of a machine that lost its power
                num_known -= 1
            start = self._read(num_known) or 0
            while num_known < rank:  # no further: that would need shards which are not at hand yet
                num_known += 1
                start = known_start if num_known == rank and known_start is not None else self._next_row(start)
                with writing(path):
                    os.pwrite(file, _ENTRY.pack(start), (num_known - 1) * _ENTRY.size)
        finally:
            os.close(file)
