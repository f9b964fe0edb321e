"""What the model takes: packed rows of interleaved text and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

IGNORED = -100
"""The target of positions that have no loss."""


@dataclass(frozen=True)
class Batch:
    """Rows of whole documents, and the images in them.

    Letters: B rows, T tokens a row, N images in all rows together (the image bank), M of them with an image loss.
    An image occupies one `<BoI>` token followed by a fixed number of placeholder tokens.
    """

    input_ids: Tensor
    """[B, T] int64; placeholders stand where visual tokens go, the padding id fills the end of a row."""

    targets: Tensor
    """[B, T] int64; `targets[r, t]` is the token that position t has to predict (already shifted); -100: none."""

    document_ids: Tensor
    """[B, T] int64; equal numbers within a row are one document, documents are contiguous, -1 is padding."""

    position_ids: Tensor
    """[B, T] int64; counts from 0 within each document."""

    pixel_values: Tensor
    """[N, 3, h, w] float32 in [0, 1]; the image bank: row by row, in reading order."""

    image_positions: Tensor
    """[N, 2] int64; row and column of each image's first visual token. Its `<BoI>` is one column earlier."""

    drawn: Tensor
    """[M] int64; which images of the bank the image decoder learns to draw."""

    drawn_pixels: Tensor
    """[M, 3, h, w] float32 in [0, 1]; those images at the output resolution."""

    drawn_keys: Tensor
    """[M] int64; seeds of each drawn image's noise, time step and dropped condition."""

    dataset_ids: Tensor | None = None
    """[B, T] int64; which data set of a mixture the document is from, -1 for padding. The model ignores it; the
    trainer logs a loss for each data set. None: one loss for all."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (the hook that a DataLoader calls)."""
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        present = {f.name: tensor for f in fields(self) if (tensor := getattr(self, f.name)) is not None}
        return Batch(**{name: change(tensor) for name, tensor in present.items()})
