"""Weights beside an ONNX file: its large tensors lie in `NAME.data`, and the graph says where.

A graph that was traced without its weights points into the checkpoint. No reader of ONNX follows it there: onnx and
onnxruntime refuse paths outside the graph's own folder and symbolic links, and onnx refuses hard links. So the numbers
are copied, a piece at a time, and take the type that the graph gives them on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, helper

from export.graph.meta_model import Stored
from models.write_errors import writing

PIECE_BYTES = 2**24
ALIGNMENT = 4096
"""Alignment of each tensor in its file, so that a reader can map it into memory."""

STORED_TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


def point_to(tensor: TensorProto, stored: Stored) -> None:
    """Let a tensor of a graph point to a file of its checkpoint, at any path; its own numbers are removed."""
    tensor.ClearField("raw_data")
    _set_entries(
        tensor,
        {"location": stored.file.name, "offset": stored.offset, "length": stored.length, "dtype": stored.dtype},
    )


def is_external(tensor: TensorProto) -> bool:
    """Whether its numbers are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def without_weights(proto: ModelProto) -> ModelProto:
    """The graph with inputs in the place of external tensors, for checks that would look for their files."""
    checked = ModelProto()
    checked.CopyFrom(proto)
    kept = [tensor for tensor in proto.graph.initializer if not is_external(tensor)]
    del checked.graph.initializer[:]
    checked.graph.initializer.extend(kept)
    checked.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in proto.graph.initializer
        if is_external(tensor)
    )
    return checked


class Encoder(Protocol):
    """Converts a tensor while `write_weights` copies it."""

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Convert the next rows, whole ones, flat."""


def write_weights(
    proto: ModelProto, checkpoint: Path, file: Path, encoders: Mapping[str, Encoder] = MappingProxyType({})
) -> None:
    """Copy what a graph points to into one file, and let the graph point there, in place; no file if it has none.

    Args:
        proto: the graph; it lies beside `file`.
        checkpoint: the directory with the files that it points to now.
        file: where the weights go.
        encoders: by name, of tensors that are converted to more than the type that the graph gives them.

    Raises:
        ValueError: a file of the checkpoint is too short.
        WriteError: the disk is full, say; nothing of the file is left.
    """
    tensors = [tensor for tensor in proto.graph.initializer if is_external(tensor)]
    if not tensors:
        return
    written: dict[tuple[object, ...], tuple[int, int]] = {}
    num_bytes = sum(math.prod(one.dims) * helper.tensor_dtype_to_np_dtype(one.data_type).itemsize for one in tensors)
    try:
        with writing(file, num_bytes), file.open("wb") as target:
            for tensor in tensors:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                encoder = encoders.get(tensor.name)
                what = (entries["location"], entries["offset"], tensor.data_type, encoder)
                if what not in written:
                    target.write(bytes(-target.tell() % ALIGNMENT))
                    start = target.tell()
                    _copy(checkpoint / entries["location"], entries, tensor, encoder, target)
                    written[what] = start, target.tell() - start
                offset, length = written[what]
                _set_entries(tensor, {"location": file.name, "offset": offset, "length": length})
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _copy(
    file: Path, entries: Mapping[str, str], tensor: TensorProto, encoder: Encoder | None, target: BinaryIO
) -> None:
    source_type = helper.tensor_dtype_to_np_dtype(STORED_TYPES[entries["dtype"]])
    target_type = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    left = int(entries["length"])
    row_bytes = left // tensor.dims[0]
    piece_bytes = max(PIECE_BYTES - PIECE_BYTES % row_bytes, row_bytes)
    with file.open("rb") as source:
        source.seek(int(entries["offset"]))
        while left:
            piece = source.read(min(piece_bytes, left))
            if len(piece) < min(piece_bytes, left):
                raise ValueError(f"{file} ends in the middle of a tensor. Fetch it again.")
            numbers = np.frombuffer(piece, source_type)
            with np.errstate(over="ignore"):  # too large numbers become infinite, which the checks find
                written = encoder.encode(numbers) if encoder is not None else numbers.astype(target_type, copy=False)
                target.write(written.tobytes())
            left -= len(piece)


def _set_entries(tensor: TensorProto, entries: Mapping[str, object]) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
