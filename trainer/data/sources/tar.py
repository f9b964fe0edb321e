"""Tar archives as files to read in the middle: where each member lies, and what is wrong with an archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainer.data.sources.problems import Problems
from trainer.data.sources.regular_files import is_not_given_out
from trainer.data.sources.remote_files import open_place
from trainer.data.sources.sample import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
MAX_HEADER_BYTES = 1 << 20
"""Of the extended headers of one member: names, owners, times."""


@dataclass(frozen=True)
class Member:
    """A regular file of an archive."""

    name: str
    offset: int
    size: int


def members(path: Path | str, problems: Problems) -> Iterator[Member]:
    """The regular files of an uncompressed tar archive, in their order; headers alone are read.

    What is wrong is added to `problems`: a member beyond the size limit is passed over, and where an archive is damaged
    or cut off, it ends.

    Args:
        path: a file, or the URL of an object, whose large members are jumped over.
        problems: gets the sentences.

    Raises:
        OSError: the system or the storage does not give out the file.
    """
    with open_place(path) as file:
        file_size = file.seek(0, 2)
        file.seek(0)
        try:
            yield from _members(file, file_size, problems)
        except Exception as error:  # tarfile passes on whatever a damaged header makes Python say
            if is_not_given_out(error):
                raise
            problems.end(f"the archive cannot be read: {error or type(error).__name__}")


def _members(file: IO[bytes], file_size: int, problems: Problems) -> Iterator[Member]:
    with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
        position = -1
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if archive.offset <= position or entry.size < 0:
                problems.end(f"{entry.name!r} declares {entry.size:,} bytes")
                return
            position = archive.offset
            if entry.issparse():
                problems.add(f"{entry.name!r} is stored with holes (sparse), which cannot be read in place")
                continue
            if entry.offset_data + entry.size > file_size:
                problems.end(
                    f"{entry.name!r} declares {entry.size:,} bytes, but the archive ends "
                    f"{file_size - entry.offset_data:,} bytes after its header"
                )
                return
            if not entry.isfile():
                continue
            if entry.size > MAX_IMAGE_BYTES:
                problems.add(f"{entry.name!r} has {entry.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
                continue
            yield Member(entry.name, entry.offset_data, entry.size)
        # tarfile ends without a word at a damaged header, too; a whole archive ends with a block of zeros.
        file.seek(archive.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
            problems.end(f"the archive is damaged or cut off at byte {archive.offset:,}")


class _Headers(io.BufferedIOBase):
    """A file as tarfile reads it, which asks for as many bytes as a header declares, be they terabytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header declares {size} bytes; the limit is {MAX_HEADER_BYTES:,}")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset < 0:
            raise tarfile.ReadError(f"a header leads to byte {offset:,}")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A member's sample and field in the WebDataset format: its name up to the first dot of the last part, and the
    rest in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()
