"""The structure that every kernel takes, packed as arguments.cuh declares it."""

from __future__ import annotations

import operator
import struct
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

MAX_LEVELS: Final = 16
MOST_COUNTED: Final = 2**31 - 64
"""Samples of a query in all images, and channels of a head: the kernels count them in 32 bits, in steps of a warp."""

KINDS: Final = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


@dataclass(kw_only=True)
class KernelArguments:
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
    num_slots: int = 1
    point_levels: int = 1
    point_points: int = 1
    offset_levels: int = 1
    num_offset_ages: int = 0
    num_logit_ages: int = 0
    num_splits: int = 1
    num_tiles: int = 1
    tile_pixels: int = 0
    has_lse: bool = False
    has_null: bool = False
    null_logit: float = 0.0
    heights: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    image_planes: Tensor | None = None
    visible: Tensor | None = None
    image_indices: Tensor | None = None
    value: Tensor
    locations: Tensor | None = None
    weights: Tensor | None = None
    points: Tensor | None = None
    offsets: Tensor | None = None
    logits: Tensor | None = None
    offset_table: Tensor | None = None
    logit_table: Tensor | None = None
    null_value: Tensor | None = None
    out: Tensor | None = None
    lse: Tensor | None = None
    split_sums: Tensor | None = None
    split_softmaxes: Tensor | None = None
    grad_out: Tensor | None = None
    grad_value: Tensor | None = None
    grad_locations: Tensor | None = None
    grad_weights: Tensor | None = None
    grad_points: Tensor | None = None
    grad_offsets: Tensor | None = None
    grad_logits: Tensor | None = None
    grad_offset_table: Tensor | None = None
    grad_logit_table: Tensor | None = None
    grad_null_value: Tensor | None = None

    def __post_init__(self) -> None:
        check_counts(self.num_images, self.most_images, self.num_levels * self.num_points, self.num_channels)

    @property
    def most_images(self) -> int:
        """That a row can see: the bank, or all slots of a list."""
        return self.num_images if self.image_indices is None else self.num_slots

    _frozen = None  # the bytes of `freeze`; without a type, since it is no member

    def pack(self) -> bytes:
        """The bytes that a kernel is launched with."""
        return self._pack() if self._frozen is None else self._frozen

    def freeze(self) -> None:
        """Pack once, for several launches: changes of a member have no effect from here on."""
        self._frozen = self._pack()

    def _pack(self) -> bytes:
        # Runs for every launch, so it is kept short: all members are packed by one call of struct.
        members: list[int | float] = []
        for name, code, part in zip(NAMES, CODES, _all_members(self), strict=True):
            if code in (INTEGER, FLOAT):
                members.append(part)
            elif code == SIZES:
                members += part + (0,) * (MAX_LEVELS - len(part))
            elif code == POINTER:
                members.append(0 if part is None else part.data_ptr())
            elif part is None:
                members += (0, 0)
            else:
                kind = KINDS.get(part.dtype)
                members += (part.data_ptr(), kind_of(name, part) if kind is None else kind)
        return LAYOUT.pack(*members)

    def tensors(self) -> dict[str, Tensor]:
        """Those that are given, by name."""
        given = zip(NAMES, _all_members(self), strict=True)
        return {name: part for name, part in given if isinstance(part, Tensor)}


def check_counts(num_images: int, most_images: int, num_samples: int, num_channels: int) -> None:
    """Raises ValueError if there are more images, samples of a query, or channels of a head than the kernels can count.

    num_images: of the bank; most_images: that a query can see; num_samples: L*P.
    """
    if num_images > MOST_COUNTED:
        raise ValueError(f"the bank has {num_images} images. The CUDA kernels take at most {MOST_COUNTED}.")
    if max(most_images, 1) * max(num_samples, 1) > MOST_COUNTED:
        raise ValueError(
            f"levels times points is {num_samples} and a query can see {most_images} images. The CUDA kernels take at "
            f"most {MOST_COUNTED} samples, images times levels times points."
        )
    if num_channels > MOST_COUNTED:
        raise ValueError(f"value has {num_channels} channels a head. The CUDA kernels take at most {MOST_COUNTED}.")


def kind_of(name: str, tensor: Tensor) -> int:
    """The number by which the kernels know the dtype of a tensor.

    Raises:
        TypeError: they do not know it.
    """
    if tensor.dtype not in KINDS:
        raise TypeError(f"{name} is {tensor.dtype}. The CUDA kernels take {', '.join(map(str, KINDS))}.")
    return KINDS[tensor.dtype]


# Codes of struct for the members. Each has 8 bytes, so there is no padding.
INTEGER: Final = "q"
FLOAT: Final = "d"
SIZES: Final = f"{MAX_LEVELS}q"
POINTER: Final = "Q"
ARRAY: Final = "Qq"  # a tensor of any floating dtype: a pointer with its dtype
ARRAYS: Final = frozenset(
    (
        "locations",
        "weights",
        "points",
        "offsets",
        "logits",
        "offset_table",
        "logit_table",
        "null_value",
        "grad_locations",
        "grad_weights",
        "grad_offsets",
        "grad_logits",
    )
)


def _code_of(name: str, annotation: str) -> str:
    if annotation.startswith("Tensor"):
        return ARRAY if name in ARRAYS else POINTER
    return {"int": INTEGER, "bool": INTEGER, "float": FLOAT, "tuple[int, ...]": SIZES}[annotation]


NAMES: Final = tuple(field.name for field in fields(KernelArguments))
CODES: Final = tuple(_code_of(field.name, str(field.type)) for field in fields(KernelArguments))
LAYOUT: Final = struct.Struct("<" + "".join(CODES))
_all_members = operator.attrgetter(*NAMES)
