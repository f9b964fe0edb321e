"""The compiled CPU kernel in a process of another processor, which an emulator runs: what stands for a loaded library.

Every call's structure and arrays go to the process, tests/kernel_process.cpp, and its results come back. Nothing of
Python or PyTorch is needed for that processor.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmfs import compiled

SOURCE = Path(__file__).with_suffix(".cpp")
INT64 = 8
"""Bytes."""

Call = compiled.MSDeformAttnCall | compiled.MMFSAttentionCall


class KernelProcess:
    """Has the functions of a library that `mmfs.compiled.library` returns, by their names, and so stands for one.

    Args:
        command: begins the process: tests/kernel_process.cpp, compiled, with the library, perhaps after an emulator.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()

    def __getattr__(self, name: str) -> Callable[..., int]:
        return functools.partial(self.call, name)

    def call(self, function: str, call: Call | None = None) -> int:
        """What the function returns; the results of the call are written where its pointers say."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        arrays = [] if call is None else arrays_of(call)
        structure = b"" if call is None else bytes(call)
        parts = [function.encode().ljust(64, b"\0"), int64s(len(structure), len(arrays)), structure]
        for member, address, num_bytes, is_result in arrays:
            parts.append(int64s(member, num_bytes, address, is_result))
            parts.append(b"" if is_result else ctypes.string_at(address, num_bytes))
        self.process.stdin.write(b"".join(parts))
        self.process.stdin.flush()
        status = self.read(4)
        for _, address, num_bytes, is_result in arrays:
            if is_result:
                ctypes.memmove(address, self.read(num_bytes), num_bytes)
        return int.from_bytes(status, "little", signed=True)

    def read(self, num_bytes: int) -> bytes:
        assert self.process.stdout is not None
        answer = self.process.stdout.read(num_bytes)
        assert len(answer) == num_bytes, f"the process of the kernel ended with {self.process.wait()}"
        return answer


def int64s(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(INT64, "little") for number in numbers)


def arrays_of(call: Call) -> list[tuple[int, int, int, bool]]:
    """Of each array: where its pointer lies in the structure, its address, its bytes, and whether it is a result."""
    found = []
    members: list[tuple[Any, str, int]] = [(call.sizes, "spatial_shapes", type(call).sizes.offset)]
    members += [(call, name, 0) for name, kind, *_ in call._fields_ if kind is ctypes.c_void_p]
    num_bytes = bytes_of(call)
    for structure, name, before in members:
        address = getattr(structure, name)
        if address:
            is_result = name == "out" or (name.startswith("grad_") and name != "grad_out")
            member = before + getattr(type(structure), name).offset
            found.append((member, address, num_bytes[name.removeprefix("grad_")], is_result))
    return found


def bytes_of(call: Call) -> dict[str, int]:
    """By the names of the arrays; a gradient is as large as what it is of."""
    sizes = call.sizes
    storage = {value: dtype.itemsize for dtype, value in compiled.STORAGE.items()}[sizes.storage]
    wide = max(storage, 4)
    rows, heads, levels, points = sizes.batch * sizes.num_queries, sizes.num_heads, sizes.num_levels, sizes.num_points
    found = {
        "spatial_shapes": (sizes.num_images if sizes.sizes_per_image else 1) * levels * 2 * INT64,
        "value": sizes.num_pixels * heads * sizes.num_channels * storage,
        "out": rows * heads * sizes.num_channels * storage,
    }
    if isinstance(call, compiled.MSDeformAttnCall):
        samples = rows * heads * levels * points
        return found | {"sampling_locations": samples * 2 * wide, "attention_weights": samples * wide}
    offsets = heads * call.offset_levels * points * 2 * wide
    logits = heads * levels * points * wide
    return found | {
        "reference_points": rows * call.num_slots * call.point_levels * call.point_points * 2 * wide,
        "sampling_offsets": rows * offsets,
        "attention_logits": rows * logits,
        "visible": rows * 2 * INT64,
        "image_indices": rows * call.num_slots * INT64,
        "offset_table": call.offset_ages * offsets,
        "logit_table": call.logit_ages * logits,
        "null_value": heads * sizes.num_channels * wide,
    }
