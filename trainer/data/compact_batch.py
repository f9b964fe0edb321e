"""A batch as it travels from the process that makes it to the device: images are whole numbers, in most cases a byte
for each value where the model reads a float32.

Letters: B rows, T tokens a row, N images in all rows together, M drawn ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from models.batch import Batch
from trainer.data.box_resize import box_sums


@dataclass(frozen=True)
class CompactImages:
    """Images of one size as whole numbers."""

    values: Tensor
    """[N, 3, h, w] uint8, int16 or int32."""

    white: int
    """The value of white; black is 0."""

    @classmethod
    def of(cls, images: Sequence[np.ndarray], image_side: int) -> CompactImages:
        """Squares, uint8 [h, w, 3] each, averaged down to `image_side` without rounding. There may be none."""
        if not images:
            return cls(torch.zeros(0, 3, image_side, image_side, dtype=torch.uint8), white=255)
        sums, white = box_sums(np.stack(images), image_side)
        return cls(torch.from_numpy(sums), white)

    def __len__(self) -> int:
        return len(self.values)

    def to_float(self) -> Tensor:
        """[N, 3, h, w] float32 in [0, 1], on the device of the values: divided by `white`, rounded once."""
        # Divided by a number of Python's, PyTorch would multiply with its rounded inverse on a GPU.
        white = torch.full((), float(self.white), device=self.values.device)
        return self.values.to(torch.float32).div_(white)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CompactImages:
        """The same on another device."""
        return CompactImages(self.values.to(device, non_blocking=non_blocking), self.white)

    def pin_memory(self) -> CompactImages:
        """The same in page-locked memory (the hook that a DataLoader calls)."""
        return CompactImages(self.values.pin_memory(), self.white)


@dataclass(frozen=True)
class CompactBatch:
    """`models.batch.Batch`, which tells what the tensors of the same names are, with compact images."""

    input_ids: Tensor
    targets: Tensor
    document_ids: Tensor
    position_ids: Tensor
    images: CompactImages
    """N; `Batch.pixel_values`."""

    image_positions: Tensor
    drawn: Tensor
    drawn_images: CompactImages
    """M; `Batch.drawn_pixels`."""

    drawn_keys: Tensor
    dataset_ids: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """What the model takes, on a device. Images travel compact and become float32 there."""
        parts = {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}
        moved = {name: part.to(device, non_blocking=non_blocking) for name, part in parts.items()}
        images, drawn_images = moved.pop("images"), moved.pop("drawn_images")
        return Batch(**moved, pixel_values=images.to_float(), drawn_pixels=drawn_images.to_float())

    def pin_memory(self) -> CompactBatch:
        """The same in page-locked memory (the hook that a DataLoader calls)."""
        parts = {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}
        return CompactBatch(**{name: part.pin_memory() for name, part in parts.items()})
