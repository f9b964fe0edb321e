"""Tar archives as files to read in the middle: where each member lies, and what is wrong with an archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.sources.sample import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})


@dataclass(frozen=True)
class Member:
    """A regular file of an archive."""

    name: str
    offset: int
    size: int


def members(path: Path, problems: list[str]) -> Iterator[Member]:
    """The regular files of an uncompressed tar archive, in their order; headers alone are read.

    What is wrong is added to `problems`: a member beyond the size limit is passed over, and where an archive is damaged
    or cut off, it ends.
    """
    try:
        file_size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            while (entry := archive.next()) is not None:
                if entry.offset_data + entry.size > file_size:
                    problems.append(
                        f"{entry.name} declares {entry.size:,} bytes, but the archive ends "
                        f"{file_size - entry.offset_data:,} bytes after its header"
                    )
                    return
                if not entry.isfile():
                    continue
                if entry.size > MAX_IMAGE_BYTES:
                    problems.append(f"{entry.name} has {entry.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
                    continue
                yield Member(entry.name, entry.offset_data, entry.size)
            # tarfile ends without a word at a damaged header, too; a whole archive ends with a block of zeros.
            with path.open("rb") as file:
                file.seek(archive.offset)
                block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
                problems.append(f"the archive is damaged or cut off at byte {archive.offset:,}")
    except (tarfile.TarError, OSError) as error:
        problems.append(f"the archive cannot be read: {error}")


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A member's sample and field in the WebDataset format: its name up to the first dot of the last part, and the
    rest in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()
