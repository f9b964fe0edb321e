"""The tensors of a checkpoint in object storage: torch.distributed.checkpoint's reader and writer for fsspec, over
files that are read by ranges and uploaded as a whole, again where the storage fails."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint._fsspec_filesystem import FileSystem
from torch.distributed.checkpoint.filesystem import _metadata_fn

from models.object_path import ObjectPath
from models.object_storage import read_object
from models.object_writing import remove_object, upload, write_object
from trainer.step.checkpoint_digests import SUFFIX, DigestingStream


class ObjectFileSystem(FileSystem):
    """What torch's reader and writer ask of storage. An object is written to a file of this machine first, so that it
    can be uploaded again, and never is there by half; its digest is beside it (`trainer.step.checkpoint_digests`)."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        url = os.fspath(path)
        if mode == "rb":
            if url.endswith(f"/{_metadata_fn}"):  # which is read whole
                yield io.BytesIO(read_object(url))
                return
            with ObjectPath(url).open() as stream:
                yield stream  # type: ignore[misc]
            return
        assert mode == "wb", "it reads or writes"
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            file = Path(folder, "tensors")
            with DigestingStream(io.FileIO(file, "w")) as stream:
                yield stream
            upload(file, url)
        write_object(url + SUFFIX, stream.digest.hexdigest().encode())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Of the small table of contents alone."""
        for suffix in (SUFFIX, ""):
            before, after = f"{os.fspath(path)}{suffix}", f"{os.fspath(new_path)}{suffix}"
            write_object(after, read_object(before))
            remove_object(before)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """There are no directories."""

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return ObjectPath(os.fspath(path)).is_file()

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        remove_object(os.fspath(path))
