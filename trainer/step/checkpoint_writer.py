"""Writes the tensors of a checkpoint with torch.distributed.checkpoint, and the digest of each file beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint import FileSystemWriter, StorageWriter
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter
from torch.distributed.checkpoint.filesystem import FileSystem

from models.object_path import ObjectPath, Place
from trainer.step.checkpoint_digests import SUFFIX, DigestingStream
from trainer.step.checkpoint_objects import ObjectFileSystem


class DigestingWriter(FileSystemWriter):
    """torch's writer; beside each file it leaves one that is called `NAME.sha256`.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=True)
        self.fs = _DigestingFileSystem()


def writer_of(folder: Place) -> StorageWriter:
    """torch's writer of the tensors of a checkpoint, for a directory or for object storage."""
    return ObjectWriter(folder) if isinstance(folder, ObjectPath) else DigestingWriter(folder)


class ObjectWriter(FsspecWriter):
    """The same for object storage.

    Args:
        folder: where the objects go.
    """

    def __init__(self, folder: ObjectPath) -> None:
        super().__init__(folder.url)
        self.fs = ObjectFileSystem()  # type: ignore[assignment]


class _DigestingFileSystem(FileSystem):
    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "it only writes"
        with DigestingStream(io.FileIO(path, "w")) as stream:
            yield stream
        Path(f"{os.fspath(path)}{SUFFIX}").write_text(stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        for suffix in (SUFFIX, ""):
            super().rename(f"{os.fspath(path)}{suffix}", f"{os.fspath(new_path)}{suffix}")
