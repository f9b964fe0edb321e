"""Images that stand inside a table. They stay there: while they are read, the cache holds them as one file, with the
bytes of all rows one after the other.

Of a table at a URL, ranged requests read the columns that are needed; nothing else of it is fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.write_errors import writing
from trainer.data.sources.problems import Problems
from trainer.data.sources.remote_files import shown_place
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.tables import bytes_in, read_table


class BytesInside:
    """All bytes in the rows of a table: how many there are, and their digest."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def counted(self, rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The rows as they are, which have been counted when they have been taken."""
        for name, row in rows:
            for data in bytes_in(row):
                self.add(data)
            yield name, row

    def add(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self._digest.update(data)

    @property
    def digest(self) -> str | None:
        """None if there are none."""
        return self._digest.hexdigest() if self.num_bytes else None


@dataclass(frozen=True)
class TableImages:
    """The bytes in the rows of a table, as a file that the cache can hold."""

    place: Path | str
    """The table."""

    size_bytes: int
    digest: str
    """Of `BytesInside`, when it was indexed."""

    def __str__(self) -> str:
        return f"the images in {shown_place(self.place)}"

    @property
    def identity(self) -> str:
        return f"the bytes with the digest {self.digest}"

    def write(self, file: Path) -> None:
        """Take them out of the table.

        Raises:
            BrokenSampleError: it is not there any more, cannot be read, or holds others than when it was indexed.
            StorageError: storage does not give it out.
            WriteError: there is no room.
        """
        found = BytesInside()
        with writing(file, self.size_bytes):
            stream = file.open("wb")
        with stream:
            try:
                for _, row in read_table(self.place, Problems()):
                    for data in bytes_in(row):
                        found.add(data)
                        with writing(file, self.size_bytes):
                            stream.write(data)
            except FileNotFoundError as error:
                raise BrokenSampleError(f"{shown_place(self.place)} is not there any more.") from error
            with writing(file, self.size_bytes):
                stream.flush()
        if (found.num_bytes, found.digest) != (self.size_bytes, self.digest):
            raise BrokenSampleError(
                f"{shown_place(self.place)} has changed since it was indexed: other images stand in it."
            )
