"""Reads a checkpoint as data; torch.distributed.checkpoint would unpickle its table of contents, and every entry in it
that is no tensor."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any, ClassVar

from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from models.object_path import ObjectPath, Place
from trainer.errors import UsageError
from trainer.step.checkpoint_objects import ObjectFileSystem

ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
    "torch": {"Size", "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
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

RECORDS = (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
    _StorageInfo,
)
"""Those of them that are given their fields after they are made."""

OPCODES = b"".join(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MEMOIZE, pickle.MARK, pickle.NONE),
        *(pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
        *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINGET, pickle.LONG_BINGET, pickle.STACK_GLOBAL),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD),
    )
)
"""Instructions that Python writes for such a table in protocol 4, which torch uses, and 5. None of them takes more
memory than its own bytes say."""


IN_ONE_PIECE = 64 << 20
"""Bytes of a stored tensor up to which all of it is in memory once more while it is loaded from object storage."""


class CheckpointReader(FileSystemReader):
    """torch's reader, except that a table of contents with anything else in it is refused instead of run."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents.

        Raises:
            UsageError: it is damaged, names something that no table of contents holds, or does not say where every
                number of every tensor is.
        """
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with self.fs.create_stream(path, "rb") as file:
                metadata = _Unpickler(io.BytesIO(file.read())).load()
            _check(metadata)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged pickle may run into
            raise UsageError(
                f"{path} is not a checkpoint's table of contents: {type(error).__name__}: {error}. Nothing in it was "
                "run. Continue from another checkpoint: --resume PATH."
            ) from error
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class ObjectReader(CheckpointReader, FsspecReader):
    """The same for object storage, in few requests: tensors are read in the order in which they lie there, and a small
    one in one piece, of which torch.load would read the end first."""

    def __init__(self, folder: ObjectPath) -> None:
        FsspecReader.__init__(self, folder.url)
        self.fs = ObjectFileSystem()  # type: ignore[assignment]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        def place(item: ReadItem) -> tuple[str, int]:
            where: _StorageInfo = self.storage_data[item.storage_index]
            return where.relative_path, where.offset

        return super().read_data(replace(plan, items=sorted(plan.items, key=place)), planner)

    def _slice_file(self, file: Any, sinfo: _StorageInfo) -> IO[bytes]:
        if sinfo.length > IN_ONE_PIECE:
            return super()._slice_file(file, sinfo)
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))


def reader_of(folder: Place) -> FileSystemReader:
    """For the tensors of a checkpoint."""
    return ObjectReader(folder) if isinstance(folder, ObjectPath) else CheckpointReader(folder)


class _Unpickler(pickle._Unpickler):
    """Python's own in Python: the one in C takes gigabytes for a few bytes that name a far place of its memory."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module!r}.{name!r}")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """Give an object its attributes; a class or a function keeps its own."""
        if not isinstance(self.stack[-2], RECORDS):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("it wants to change what it may only name")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code in OPCODES
    } | {pickle.BUILD[0]: load_build}


def _check(metadata: Any) -> None:
    """Raise ValueError unless it is a table of contents of tensors that are there as a whole."""
    if not isinstance(metadata, Metadata):
        raise ValueError(f"it holds a {type(metadata).__name__}")
    if not isinstance(metadata.storage_meta, StorageMeta | None):
        raise ValueError("what it says of its making is of another form")
    found = {(index.fqn, tuple(index.offset)): where for index, where in metadata.storage_data.items()}
    for where in found.values():
        name = where.relative_path
        if not isinstance(where, _StorageInfo) or type(name) is not str or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"it names a file {name!r}, and expected is one beside it")
        if where.transform_descriptors is not None or min(where.offset, where.length) < 0:
            raise ValueError(f"it names a place in {name!r} that cannot be")
    for name, about in metadata.state_dict_metadata.items():
        if type(name) is not str or not isinstance(about, TensorStorageMetadata):
            raise ValueError(f"it says that {name!r} is a {type(about).__name__}, and expected are tensors")
        num_there = 0
        for chunk in about.chunks:
            ends = [start + length for start, length in zip(chunk.offsets, chunk.sizes, strict=True)]
            inside = len(ends) == len(about.size) and all(
                0 <= start <= end <= size for start, end, size in zip(chunk.offsets, ends, about.size, strict=True)
            )
            if not inside or (name, tuple(chunk.offsets)) not in found:
                raise ValueError(f"it has a piece of {name!r} that is not inside of it, or in no file")
            num_there += math.prod(chunk.sizes)
        if num_there != math.prod(about.size):
            raise ValueError(f"it has {num_there} of the {math.prod(about.size)} numbers of {name!r}")
