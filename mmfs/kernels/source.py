"""The text that is compiled: the kernels' files in one, and one plainly named entry point for each wanted instance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch

STORAGE_TYPES: Final = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "mmfs::half",
    torch.bfloat16: "mmfs::bfloat16",
}
FILES: Final = ("forward.cu", "backward.cu", "map_gradient.cu", "dense_gradient.cu")
ROW_THREADS: Final = 128
MOST_THREADS: Final = {"map_gradient": 512, "dense_gradient": 256}
"""Threads of a block, by kernel; all others have at most ROW_THREADS. These two need exactly this many."""


@dataclass(frozen=True)
class Instance:
    """A kernel with its template arguments."""

    kernel: str  # function of a .cu file
    dtype: torch.dtype  # of value
    arguments: tuple[int | bool, ...]  # after the dtype

    @property
    def name(self) -> str:
        """Of the entry point."""
        parts = (self.kernel, str(self.dtype).removeprefix("torch."), *(int(part) for part in self.arguments))
        return "_".join(map(str, ("mmfs", *parts)))

    @classmethod
    def named(cls, name: str) -> Instance:
        """The reverse of `name`.

        Raises:
            ValueError: it is no such name.
        """
        found = re.fullmatch(r"mmfs_(\w+)_(float32|float64|float16|bfloat16)((?:_\d+)*)", name)
        if found is None:
            raise ValueError(f"{name!r} is not the name of a kernel of mmfs.")
        return cls(found[1], getattr(torch, found[2]), tuple(map(int, found[3].split("_")[1:])))

    @property
    def most_threads(self) -> int:
        """Of a block."""
        return MOST_THREADS.get(self.kernel, ROW_THREADS)

    @property
    def function(self) -> str:
        """The kernel's name in C++."""
        arguments = ", ".join([STORAGE_TYPES[self.dtype], *(str(part).lower() for part in self.arguments)])
        return f"mmfs::{self.kernel}<{arguments}>"

    @property
    def entry(self) -> str:
        # Promises one block a multiprocessor: without this the compiler plans for more, and spills registers.
        return (
            f'extern "C" __global__ void __launch_bounds__({self.most_threads}, 1) {self.name}(\n'
            f"    const __grid_constant__ mmfs::Arguments arguments) {{\n"
            f"    {self.function}(arguments);\n"
            "}\n"
        )


def source_of(instances: Iterable[Instance]) -> str:
    return kernel_source() + "\n" + "\n".join(instance.entry for instance in instances)


@cache
def kernel_source() -> str:
    """All files, each once, with includes replaced by the files they name: the compiler needs no include path."""
    included: set[str] = set()
    return "\n".join(_with_includes(name, included) for name in FILES)


def _with_includes(name: str, included: set[str]) -> str:
    included.add(name)
    lines: list[str] = [f'#line 1 "{name}"']
    for number, line in enumerate(_read(name), start=1):
        other = re.fullmatch(r'#include "([^"]+)"', line)
        if other is not None:
            if other[1] not in included:
                lines += [_with_includes(other[1], included), f'#line {number + 1} "{name}"']
            else:
                lines.append("")
        elif line != "#pragma once":
            lines.append(line)
        else:
            lines.append("")
    return "\n".join(lines)


def _read(name: str) -> Sequence[str]:
    return (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
