"""Tensors at a chosen place in memory. Equal numbers at other addresses need not give equal bits: a matrix product
(MKL) adds in an order that depends on where its arguments begin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
