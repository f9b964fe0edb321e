"""Writes the tensors of a checkpoint with torch.distributed.checkpoint, and the digest of each file beside it.

A digest is of the bytes that were handed over, not of what came to lie on the disk: so it also finds what was damaged
on the way. Each process computes those of its own files while it writes them.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem

SUFFIX = ".sha256"


class DigestingWriter(FileSystemWriter):
    """torch's writer; beside each file it leaves one that is called `NAME.sha256`.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=True)
        self.fs = _DigestingFileSystem()


def take_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Digests of files that were written, by name; what told them is removed.

    Raises:
        FileNotFoundError: that of a file is missing.
    """
    digests = {name: (folder / (name + SUFFIX)).read_text() for name in names}
    for name in names:
        (folder / (name + SUFFIX)).unlink()
    return digests


class _DigestingFileSystem(FileSystem):
    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "it only writes"
        with _DigestingStream(io.FileIO(path, "w")) as stream:
            yield stream
        Path(f"{os.fspath(path)}{SUFFIX}").write_text(stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        for suffix in (SUFFIX, ""):
            super().rename(f"{os.fspath(path)}{suffix}", f"{os.fspath(new_path)}{suffix}")


class _DigestingStream(io.BufferedWriter):
    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self.digest = hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return super().write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("what is written here is written once, from its beginning to its end")
