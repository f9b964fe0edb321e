"""Tensors at a chosen place in memory. Equal numbers at other addresses need not give equal bits: a matrix product
(MKL) adds in an order that depends on where its arguments begin."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LINE = 64
"""Where PyTorch's CPU allocator begins each tensor: at a multiple of so many bytes. A tensor in a mapped file begins
anywhere."""

OFFSETS = (0, 4, 8, 16, 32)
"""Bytes past a multiple of `LINE`."""


def at_offset(tensor: Tensor, offset: int) -> Tensor:
    """A contiguous copy that begins `offset` bytes past a multiple of `LINE`."""
    size = tensor.element_size()
    assert offset % size == 0, f"{tensor.dtype} cannot begin at byte {offset}"
    memory = torch.empty(tensor.numel() + 2 * LINE // size, dtype=tensor.dtype)
    first = (-memory.data_ptr() % LINE + offset) // size
    moved = memory[first : first + tensor.numel()].view(tensor.shape).copy_(tensor)
    assert moved.data_ptr() % LINE == offset % LINE
    return moved


def move_parameters(module: nn.Module, offset: int) -> None:
    """Every parameter keeps its numbers and begins `offset` bytes past a multiple of `LINE`."""
    for parameter in module.parameters():
        parameter.data = at_offset(parameter.data, offset)


class ProductArguments(TorchDispatchMode):
    """While it is on, it counts the arguments of matrix products, and those in memory that PyTorch did not allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0
        self.elsewhere: list[str] = []
        """The operator and the shape of each argument whose memory does not begin at a multiple of `LINE`."""

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """One operator."""
        if any(word in str(function) for word in ("mm", "conv", "linear", "attention", "dot", "mv")):
            for tensor in tree_leaves((arguments, options)):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                    self.num += 1
                    if tensor.untyped_storage().data_ptr() % LINE:
                        self.elsewhere.append(f"{function} {tuple(tensor.shape)}")
        return function(*arguments, **(options or {}))


def begin_anywhere(folder: Path) -> None:
    """From now on every tensor that PyTorch makes on the CPU in this process begins at another multiple of 8 bytes.

    Args:
        folder: where the allocator is compiled.

    Raises:
        RuntimeError: there is no C++ compiler.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("Odd alignment needs a C++ compiler, g++ or clang++: tests/odd_alignment.cpp is compiled.")
    pytorch, library = Path(torch.__file__).parent, folder / "odd_alignment.so"
    source = Path(__file__).with_name("odd_alignment.cpp")
    flags = ["-std=c++20", "-shared", "-fPIC", f"-I{pytorch / 'include'}", f"-L{pytorch / 'lib'}", "-lc10"]
    subprocess.run([compiler, str(source), *flags, "-o", str(library)], check=True)
    ctypes.CDLL(str(library)).begin_anywhere()
