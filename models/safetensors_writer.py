"""A safetensors file written tensor by tensor, so that one of them is whole in memory at a time.

safetensors' own `save_file` wants all of them at once. The file is the same, byte by byte: the length of the header in
8 bytes, the header in JSON, then the tensors, those with the widest numbers first
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

from models.free_memory import FreeMemory
from models.sharded_tensors import full_tensor

CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""What the format calls a type; safetensors writes those that stand later here first."""

ALIGNMENT = 8
"""Bytes: the header's length is a multiple of it."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is computed when it is written."""

    dtype: torch.dtype
    shape: torch.Size
    compute: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Of all its numbers."""
        return self.dtype.itemsize * math.prod(self.shape)


Tensors = Mapping[str, Tensor | LazyTensor]
"""By name; some may be sharded over the processes of a run (DTensor)."""


def write_safetensors(stream: IO[bytes], tensors: Tensors) -> None:
    """Write a file, from its beginning to its end. Where tensors are sharded, all other processes of the run have to
    call `gather_tensors` with theirs at the same time.

    Raises:
        KeyError: a tensor is of a type that `CODES` does not have.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in _order(tensors):
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(ALIGNMENT, "little"))
    stream.write(text)
    free = FreeMemory()
    for name in _order(tensors):
        stream.write(_bytes(tensors[name]))
        free.let_go(tensors[name].nbytes)


def gather_tensors(tensors: Tensors) -> None:
    """What `write_safetensors` needs of the processes that do not write: their parts of sharded tensors."""
    free = FreeMemory()
    for name in _order(tensors):
        _whole(tensors[name])
        free.let_go(tensors[name].nbytes)


def _bytes(tensor: Tensor | LazyTensor) -> memoryview:
    numbers = _whole(tensor).cpu().contiguous()
    return numbers.reshape(-1).view(torch.uint8).numpy().data


def _order(tensors: Tensors) -> list[str]:
    places = {code: -place for place, code in enumerate(CODES)}
    return sorted(tensors, key=lambda name: (places[tensors[name].dtype], name))


@torch.no_grad()
def _whole(tensor: Tensor | LazyTensor) -> Tensor:
    return full_tensor(tensor.compute() if isinstance(tensor, LazyTensor) else tensor)
