"""A short start for a randomly initialised image encoder: what stands where, on every level of its pyramid.

A 1x1 linear head on each level names the object and the digit in each cell; the heads are thrown away afterwards. From
scratch, the main losses alone teach an encoder to see only slowly, since they reach it through a language model and a
U-Net that cannot use it yet. A pre-trained CLIP needs none of this.

Letters: N images of H x W pixels, h x w cells of a level, S cells of all levels, C feature width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MMInterleaved
from models.visual_tokenizer import VisualTokenizer

BACKGROUND = 0


@dataclass(frozen=True)
class EncoderBatch:
    """Pictures and what each of their pixels shows."""

    pixel_values: Tensor
    """[N, 3, H, W] float32 in [0, 1]."""

    objects: Tensor
    """[N, H, W] int64; 0 is background, i + 1 the world's object i."""

    digits: Tensor
    """[N, H, W] int64; 0 is none, d + 1 the printed digit d."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> EncoderBatch:
        """The same batch on another device."""
        moved = (getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self))
        return EncoderBatch(*moved)

    def pin_memory(self) -> EncoderBatch:
        """The same batch in page-locked memory (the hook that a DataLoader calls)."""
        return EncoderBatch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass(frozen=True)
class DenseOutput:
    """Losses and accuracies of one batch."""

    loss: Tensor
    loss_objects: Tensor
    loss_digits: Tensor
    accuracy_objects: Tensor
    """Share of the object cells of the finest level that are named rightly."""

    accuracy_digits: Tensor
    """The same for digits."""


class DenseLabelling(nn.Module):
    """The visual tokenizer with a linear head for each level and kind of label.

    Args:
        visual_tokenizer: what learns and stays.
        feature_dim: C.
        num_objects: object classes, without the background.
        num_digits: digit classes, without "none".
    """

    def __init__(
        self, visual_tokenizer: VisualTokenizer, *, feature_dim: int, num_objects: int, num_digits: int
    ) -> None:
        super().__init__()
        self.visual_tokenizer = visual_tokenizer
        levels = range(len(visual_tokenizer.spatial_shapes))
        self.object_heads = nn.ModuleList(nn.Linear(feature_dim, num_objects + 1) for _ in levels)
        self.digit_heads = nn.ModuleList(nn.Linear(feature_dim, num_digits + 1) for _ in levels)

    def forward(self, batch: EncoderBatch) -> DenseOutput:
        """Both losses, averaged over the levels."""
        _, features = self.visual_tokenizer(batch.pixel_values)  # [N, S, C]
        shapes = self.visual_tokenizer.spatial_shapes
        maps = features.split([h * w for h, w in shapes], dim=1)  # of [N, h*w, C]
        loss_objects, accuracy_objects = self._losses(maps, self.object_heads, batch.objects)
        loss_digits, accuracy_digits = self._losses(maps, self.digit_heads, batch.digits)
        return DenseOutput(loss_objects + loss_digits, loss_objects, loss_digits, accuracy_objects, accuracy_digits)

    def _losses(self, maps: Sequence[Tensor], heads: nn.ModuleList, labels: Tensor) -> tuple[Tensor, Tensor]:
        shapes = self.visual_tokenizer.spatial_shapes
        logits = [head(level) for head, level in zip(heads, maps, strict=True)]  # [N, h*w, K]
        targets = [cell_labels(labels, shape).flatten(1) for shape in shapes]  # [N, h*w]
        losses = [balanced_cross_entropy(x, y) for x, y in zip(logits, targets, strict=True)]
        return torch.stack(losses).mean(), foreground_accuracy(logits[0], targets[0])


def cell_labels(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """The label at the centre of each cell: [N, H, W] -> [N, h, w]."""
    (_, height, width), (h, w) = labels.shape, shape
    rows = (torch.arange(h, device=labels.device) * height + height // 2) // h
    columns = (torch.arange(w, device=labels.device) * width + width // 2) // w
    return labels[:, rows[:, None], columns]


def balanced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which background and foreground weigh the same, however empty the pictures are.

    Args:
        logits: [N, h*w, K].
        targets: [N, h*w] int64, 0 is background.

    Returns:
        [], float32; a kind of cell that does not occur contributes 0.
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    is_foreground = (targets.flatten() != BACKGROUND).float()
    foreground = (losses * is_foreground).sum() / is_foreground.sum().clamp(min=1)
    background = (losses * (1 - is_foreground)).sum() / (1 - is_foreground).sum().clamp(min=1)
    return (foreground + background) / 2


def foreground_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of the cells with something in them that are named rightly, []; 0 if there are none."""
    is_foreground = targets != BACKGROUND
    right = (logits.argmax(-1) == targets) & is_foreground
    return right.sum() / is_foreground.sum().clamp(min=1)
