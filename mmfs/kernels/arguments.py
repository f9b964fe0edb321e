"""The structure that every kernel takes, packed as arguments.cuh declares it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

MAX_LEVELS: Final = 16
KINDS: Final = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


@dataclass(kw_only=True)
class Arguments:
    """Members in the order of arguments.cuh, where they are explained. A tensor that a kernel does not need is None."""

    num_rows: int
    num_queries: int
    num_images: int
    num_pixels: int
    pixels_per_image: int
    num_heads: int
    num_channels: int
    num_levels: int
    num_points: int
    num_offset_ages: int = 0
    num_logit_ages: int = 0
    num_splits: int = 1
    num_tiles: int = 1
    tile_pixels: int = 0
    has_null: bool = False
    null_logit: float = 0.0
    heights: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    image_planes: Tensor | None = None
    visible: Tensor | None = None
    value: Tensor
    points: Tensor | None = None
    offsets: Tensor | None = None
    logits: Tensor | None = None
    offset_table: Tensor | None = None
    logit_table: Tensor | None = None
    null_value: Tensor | None = None
    out: Tensor | None = None
    log_sums: Tensor | None = None
    split_sums: Tensor | None = None
    split_softmaxes: Tensor | None = None
    grad_out: Tensor | None = None
    grad_value: Tensor | None = None
    grad_points: Tensor | None = None
    grad_offsets: Tensor | None = None
    grad_logits: Tensor | None = None
    grad_offset_table: Tensor | None = None
    grad_logit_table: Tensor | None = None
    grad_null_value: Tensor | None = None

    def pack(self) -> bytes:
        return LAYOUT.pack(*self._members())

    def tensors(self) -> dict[str, Tensor]:
        """Those that are given, by name."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: part for name, part in given if isinstance(part, Tensor)}

    def _members(self) -> Iterator[int | float]:
        for field in fields(self):
            part = getattr(self, field.name)
            if field.name in SIZES:
                yield from part
                yield from (0 for _ in range(MAX_LEVELS - len(part)))
            elif field.name in ARRAYS:
                yield 0 if part is None else part.data_ptr()
                yield 0 if part is None else KINDS[part.dtype]
            elif isinstance(part, Tensor):
                yield part.data_ptr()
            else:
                yield 0 if part is None else part


SIZES: Final = frozenset(("heights", "widths"))
ARRAYS: Final = frozenset(
    (
        "points",
        "offsets",
        "logits",
        "offset_table",
        "logit_table",
        "null_value",
        "grad_offsets",
        "grad_logits",
    )
)
"""Tensors of any floating dtype: a pointer with its dtype."""


def _layout() -> struct.Struct:
    """Every member has 8 bytes, so there is no padding."""
    members = (
        "d"
        if field.name == "null_logit"
        else f"{MAX_LEVELS}q"
        if field.name in SIZES
        else "Qq"
        if field.name in ARRAYS
        else "Q"
        if str(field.type).startswith("Tensor")
        else "q"
        for field in fields(Arguments)
    )
    return struct.Struct("<" + "".join(members))


LAYOUT: Final = _layout()
