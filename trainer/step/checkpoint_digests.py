"""Digests of the files of a checkpoint: of the bytes that were handed over, not of what came to lie on the disk, so
that they also find what was damaged on the way. Each process computes those of its own files while it writes them."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from models.object_path import ObjectPath, Place
from models.object_writing import remove_object

SUFFIX = ".sha256"


class DigestingStream(io.BufferedWriter):
    """A file that is written once, and the digest of it."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self.digest = hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return super().write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("what is written here is written once, from its beginning to its end")


def take_digests(folder: Place, names: list[str]) -> dict[str, str]:
    """Digests of files that were written, by name; what told them is removed.

    Raises:
        FileNotFoundError: that of a file is missing.
    """
    digests = {name: (folder / (name + SUFFIX)).read_text() for name in names}
    for name in names:
        place = folder / (name + SUFFIX)
        if isinstance(place, ObjectPath):
            remove_object(place.url)
        else:
            place.unlink()
    return digests
