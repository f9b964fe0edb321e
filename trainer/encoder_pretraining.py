"""A short start for a randomly initialised image encoder: what stands where, in the pyramid and in the visual tokens.

1x1 linear heads on each level of the pyramid name the sprite or the printed digit in each cell, and the number under a
sprite; a linear head on the visual tokens says which sprites the image has and where. The heads are thrown away
afterwards. The main losses alone teach an encoder to see only slowly, since they reach it through a language model and
a U-Net that cannot use it yet. A pre-trained CLIP needs none of this.

Letters: N images of h x w pixels, h x w cells of a level, C feature width, K sprites that occur, n visual tokens of
c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MMInterleaved
from models.visual_tokenizer import VisualTokenizer
from trainer.config import TrainConfig
from trainer.data.emoji.world import num_label_classes
from trainer.data.labelled_scenes import LabelledImages, LabelledScenes
from trainer.step.phase import Phase


@dataclass(frozen=True)
class EncoderOutput:
    """Loss and accuracies: what a batch adds to those of the step that it is part of."""

    loss: Tensor
    """Sum of the three kinds' losses."""

    accuracy_sprites: Tensor
    """Share of the cells of the finest level with a sprite that are named rightly."""

    accuracy_digits: Tensor
    """The same for digits."""

    accuracy_numbers: Tensor
    """Share of those cells with a numbered sprite whose number is told rightly, both digits."""

    accuracy_layout: Tensor
    """Share of the present sprites that the visual tokens place within an eighth of the image's side, x and y."""


class EncoderPretraining(nn.Module):
    """The visual tokenizer with linear heads.

    Args:
        visual_tokenizer: what learns and stays.
        num_concepts: K; the ten digits follow the sprites (`trainer.data.emoji.world.dense_labels`).
        token_dim: c.
    """

    def __init__(self, visual_tokenizer: VisualTokenizer, *, num_concepts: int, token_dim: int) -> None:
        super().__init__()
        self.visual_tokenizer = visual_tokenizer
        self.num_concepts = num_concepts
        self.num_classes = num_label_classes(num_concepts)
        self.heads = nn.ModuleList(
            nn.Linear(visual_tokenizer.dim, self.num_classes + 20) for _ in visual_tokenizer.spatial_shapes
        )  # then tens and ones of the number
        self.layout_head = nn.Linear(visual_tokenizer.config.num_visual_tokens * token_dim, 3 * num_concepts)

    def counts(self, batch: LabelledImages) -> list[int]:
        """What is counted of a batch: on each level, finest first, the cells of background, sprites and digits, and
        those with a number; then the sprites that its images have, and those that they lack."""
        counts = []
        for shape in self.visual_tokenizer.spatial_shapes:
            classes, numbers = cell_labels(batch.classes, shape), cell_labels(batch.numbers, shape)
            counts += [int(kind.sum()) for kind in (*self._kinds(classes), numbers >= 0)]
        num_present = int(batch.present.sum())
        return [*counts, num_present, batch.present.numel() - num_present]

    def forward(self, batch: LabelledImages, counts: Sequence[int] | None = None) -> EncoderOutput:
        """All heads' losses on a batch; every level of the pyramid weighs the same.

        Args:
            batch: on the module's device.
            counts: `counts` of all batches of the step, added up; None: this is the only one.
        """
        counts = self.counts(batch) if counts is None else counts
        tokens, features = self.visual_tokenizer(batch.pixel_values)  # [N, n, c], [N, S, C]
        shapes = self.visual_tokenizer.spatial_shapes
        maps = features.split([h * w for h, w in shapes], dim=1)  # of [N, h*w, C]
        losses = []
        for number in reversed(range(len(shapes))):
            shape, counted = shapes[number], counts[4 * number : 4 * number + 4]
            classes = cell_labels(batch.classes, shape).flatten(1)  # [N, h*w]
            numbers = cell_labels(batch.numbers, shape).flatten(1)
            named, tens, ones = self.heads[number](maps[number]).split([self.num_classes, 10, 10], dim=-1)
            numbered = (numbers >= 0,)
            losses += [
                balanced_cross_entropy(named, classes, self._kinds(classes), counted[:3]),
                balanced_cross_entropy(tens, numbers.clamp(min=0) // 10, numbered, counted[3:]) / 2,
                balanced_cross_entropy(ones, numbers.clamp(min=0) % 10, numbered, counted[3:]) / 2,
            ]
        # The loop ended with the finest level, whose accuracies tell most.
        right = named.argmax(-1) == classes
        told = 10 * tens.argmax(-1) + ones.argmax(-1) == numbers
        _, is_sprite, is_digit = self._kinds(classes)
        _, num_sprites, num_digits, num_numbered = counted
        num_present, num_absent = counts[-2:]
        layout_loss, placed = self._layout(tokens, batch, num_present, num_absent)
        return EncoderOutput(
            loss=torch.stack(losses).sum() / len(shapes) + layout_loss,
            accuracy_sprites=share(right, is_sprite, num_sprites),
            accuracy_digits=share(right, is_digit, num_digits),
            accuracy_numbers=share(told, *numbered, num_numbered),
            accuracy_layout=share(placed, batch.present, num_present),
        )

    def _kinds(self, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which cells are background, sprite, digit."""
        return classes == 0, (classes > 0) & (classes <= self.num_concepts), classes > self.num_concepts

    def _layout(
        self, tokens: Tensor, batch: LabelledImages, num_present: int, num_absent: int
    ) -> tuple[Tensor, Tensor]:
        """Loss of the visual tokens, and [N, K] bool: which sprites they place about rightly.

        The tokens are normalised as the language model normalises what it reads, so their size stays as it is.
        """
        said = self.layout_head(F.rms_norm(tokens, tokens.shape[-1:]).flatten(1)).unflatten(1, (self.num_concepts, 3))
        presence, centres = said[..., 0].float(), said[..., 1:].float() + 0.5  # the image's middle to begin with
        rare = F.binary_cross_entropy_with_logits(presence, batch.present.float(), reduction="none")
        told = torch.stack([share(rare, batch.present, num_present), share(rare, ~batch.present, num_absent)])
        distance = (centres - batch.centres).abs()  # in sides of the image
        loss = told.sum() + 2 * share(distance.sum(-1), batch.present, num_present)
        return loss, (presence > 0) & (distance < 1 / 8).all(-1)


def cell_labels(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """The label at the centre of each cell: [N, h', w'] of whole numbers -> [N, h, w] int64."""
    (_, height, width), (h, w) = labels.shape, shape
    rows = (torch.arange(h, device=labels.device) * height + height // 2) // h
    columns = (torch.arange(w, device=labels.device) * width + width // 2) // w
    return labels[:, rows[:, None], columns].long()


def balanced_cross_entropy(logits: Tensor, targets: Tensor, kinds: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The mean over `kinds` of the cells' mean cross-entropy, however rare a kind is; one without cells counts 0.

    Args:
        logits: [N, h*w, K].
        targets: [N, h*w] int64.
        kinds: masks, [N, h*w] bool each.
        counts: cells of each kind in the whole step.

    Returns:
        [] float32.
    """
    losses = F.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")  # [N, h*w]
    return torch.stack([share(losses, kind, count) for kind, count in zip(kinds, counts, strict=True)]).mean()


def share(values: Tensor, chosen: Tensor, count: int) -> Tensor:
    """What the chosen values add to a mean over `count`, []; 0 if none is chosen."""
    return (values * chosen).sum() / max(count, 1)


def encoder_phase(model: MMInterleaved, config: TrainConfig) -> Phase:
    """The phase before the main training. Its checkpoints hold the image encoder only; the seed makes the rest."""
    settings = config.encoder_pretraining
    module = EncoderPretraining(
        model.visual_tokenizer,
        num_concepts=config.data.num_concepts,
        token_dim=config.model.language_model.transformer["hidden_size"],
    )
    return Phase(
        name="encoder",
        index=0,
        module=module,
        batch=LabelledScenes(config.data, config.model, seed=config.seed),
        num_rows=settings.images_per_step,
        counts=module.counts,
        accumulate=_accumulate,
        size=lambda batch: (0, len(batch.images)),
        num_steps=settings.num_steps,
        optim=settings.optim,
    )


def _accumulate(module: nn.Module, batch: LabelledImages, counts: Sequence[int]) -> dict[str, Tensor]:
    """Gradients of a micro-batch, and its share of the values of the whole step."""
    output = module(batch, counts)
    output.loss.backward()
    return {field.name: getattr(output, field.name).detach() for field in fields(output)}
