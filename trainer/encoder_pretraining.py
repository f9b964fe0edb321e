"""A short start for a randomly initialised image encoder: what stands where, on every level of its pyramid.

A 1x1 linear head on each level names the sprite or the printed digit in each cell; the heads are thrown away
afterwards. The main losses alone teach an encoder to see only slowly, since they reach it through a language model and
a U-Net that cannot use it yet. A pre-trained CLIP needs none of this.

Letters: N images of H x W pixels, h x w cells of a level, S cells of all levels, C feature width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MMInterleaved
from models.visual_tokenizer import VisualTokenizer
from trainer.config import TrainConfig
from trainer.data.emoji.world import num_label_classes
from trainer.data.stream import LabelledScenes
from trainer.loop import Phase


@dataclass(frozen=True)
class EncoderBatch:
    """Pictures and what each of their pixels shows."""

    pixel_values: Tensor
    """[N, 3, H, W] float32 in [0, 1]."""

    labels: Tensor
    """[N, H, W] int64, classes of `trainer.data.emoji.world.dense_labels`."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> EncoderBatch:
        """The same batch on another device."""
        return EncoderBatch(
            self.pixel_values.to(device, non_blocking=non_blocking), self.labels.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> EncoderBatch:
        """The same batch in page-locked memory (the hook that a DataLoader calls)."""
        return EncoderBatch(self.pixel_values.pin_memory(), self.labels.pin_memory())


@dataclass(frozen=True)
class EncoderBatches:
    """Step number (from 0) to its labelled pictures; a pure function."""

    scenes: LabelledScenes

    def __call__(self, step: int) -> EncoderBatch:
        """The batch of a step."""
        return EncoderBatch(*self.scenes(step))


@dataclass(frozen=True)
class DenseOutput:
    """Losses and accuracies of one batch."""

    loss: Tensor
    """Mean over levels and kinds of cells."""

    accuracy_sprites: Tensor
    """Share of the cells of the finest level with a sprite that are named rightly."""

    accuracy_digits: Tensor
    """The same for digits."""


class DenseLabelling(nn.Module):
    """The visual tokenizer with a linear head on each level.

    Args:
        visual_tokenizer: what learns and stays.
        num_concepts: sprite classes; the ten digits follow them (`trainer.data.emoji.world.dense_labels`).
    """

    def __init__(self, visual_tokenizer: VisualTokenizer, *, num_concepts: int) -> None:
        super().__init__()
        self.visual_tokenizer = visual_tokenizer
        self.num_concepts = num_concepts
        self.heads = nn.ModuleList(
            nn.Linear(visual_tokenizer.dim, num_label_classes(num_concepts)) for _ in visual_tokenizer.spatial_shapes
        )

    def forward(self, batch: EncoderBatch) -> DenseOutput:
        """Cross-entropy on all levels; background, sprites and digits weigh the same on each."""
        _, features = self.visual_tokenizer(batch.pixel_values)  # [N, S, C]
        shapes = self.visual_tokenizer.spatial_shapes
        maps = features.split([h * w for h, w in shapes], dim=1)  # of [N, h*w, C]
        logits = [head(level) for head, level in zip(self.heads, maps, strict=True)]  # of [N, h*w, K]
        targets = [cell_labels(batch.labels, shape).flatten(1) for shape in shapes]  # of [N, h*w]
        losses = [balanced_cross_entropy(x, y, self._kinds(y)) for x, y in zip(logits, targets, strict=True)]
        right = logits[0].argmax(-1) == targets[0]
        _, is_sprite, is_digit = self._kinds(targets[0])
        return DenseOutput(torch.stack(losses).mean(), share(right, is_sprite), share(right, is_digit))

    def _kinds(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which cells are background, sprite, digit."""
        return targets == 0, (targets > 0) & (targets <= self.num_concepts), targets > self.num_concepts


def cell_labels(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """The label at the centre of each cell: [N, H, W] -> [N, h, w]."""
    (_, height, width), (h, w) = labels.shape, shape
    rows = (torch.arange(h, device=labels.device) * height + height // 2) // h
    columns = (torch.arange(w, device=labels.device) * width + width // 2) // w
    return labels[:, rows[:, None], columns]


def balanced_cross_entropy(logits: Tensor, targets: Tensor, kinds: tuple[Tensor, ...]) -> Tensor:
    """The mean over `kinds` of the cells' mean cross-entropy, however rare a kind is; one without cells counts 0.

    Args:
        logits: [N, h*w, K].
        targets: [N, h*w] int64.
        kinds: masks, [N, h*w] bool each.

    Returns:
        [] float32.
    """
    losses = F.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")  # [N, h*w]
    return torch.stack([share(losses, kind) for kind in kinds]).mean()


def share(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values, []; 0 if none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def encoder_phase(model: MMInterleaved, config: TrainConfig) -> Phase:
    """The phase before the main training. Its checkpoints hold the image encoder only; the seed makes the rest."""
    settings = config.encoder_pretraining
    scenes = LabelledScenes(config.data, config.model, seed=config.seed, num_images=settings.images_per_step)
    return Phase(
        name="encoder",
        index=0,
        module=DenseLabelling(model.visual_tokenizer, num_concepts=config.data.num_concepts),
        batch=EncoderBatches(scenes),
        measure=lambda output: {
            "loss": output.loss,
            "accuracy_sprites": output.accuracy_sprites,
            "accuracy_digits": output.accuracy_digits,
        },
        count=lambda batch: (0, len(batch.pixel_values)),
        num_steps=settings.num_steps,
        optim=settings.optim,
    )
