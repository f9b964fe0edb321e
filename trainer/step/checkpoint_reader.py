"""Reads the table of contents of a checkpoint as data; torch.distributed.checkpoint would unpickle it."""

from __future__ import annotations

import pickle
from typing import Any

from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from trainer.errors import UsageError

ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
    "torch": {"Size", "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}
"""What a table of contents is made of, by module. Each of them only holds what it is given."""


class CheckpointReader(FileSystemReader):
    """torch's reader, except that a table of contents with anything else in it is refused instead of run."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents.

        Raises:
            UsageError: it is damaged, or names something that no table of contents holds.
        """
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with self.fs.create_stream(path, "rb") as file:
                metadata = _Unpickler(file).load()
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged pickle may run into
            raise UsageError(
                f"{path} is not a checkpoint's table of contents: {type(error).__name__}: {error}. Nothing in it was "
                "run. Continue from another checkpoint: --resume PATH."
            ) from error
        if not isinstance(metadata, Metadata):
            raise UsageError(f"{path} holds a {type(metadata).__name__} instead of a checkpoint's table of contents.")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
