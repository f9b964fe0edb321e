"""The losses of a step, and those of each part of a mixture of data.

Letters: K supervised tokens, M drawn images, D datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models import Batch, MMInterleaved
from models.batch import IGNORED
from trainer.data.compact_batch import CompactBatch
from trainer.step.accumulate import Chunks, accumulate


@dataclass(frozen=True)
class StepLosses:
    """How the main training counts its batches and what it logs of them: `Phase.counts` and `Phase.accumulate`.

    The loss of a dataset is the mean over its tokens, or its drawn images, in the whole batch. Weighted with their
    shares of the tokens, the losses of all datasets add up to the loss of the step.
    """

    chunks: Chunks
    dtype: torch.dtype
    """Both as `trainer.step.accumulate` takes them."""

    datasets: tuple[str, ...] = ()
    """D names, by their numbers in `Batch.dataset_ids`. Fewer than two have no losses of their own."""

    def counts(self, batch: Batch | CompactBatch) -> list[int]:
        """Supervised tokens and drawn images; then, of several datasets, each one's tokens and each one's images."""
        counts = [int((batch.targets != IGNORED).sum()), len(batch.drawn)]
        if len(self.datasets) > 1:
            for ids in datasets_of_losses(batch):
                counts += torch.bincount(ids, minlength=len(self.datasets)).tolist()
        return counts

    def accumulate(self, model: MMInterleaved, batch: Batch, counts: Sequence[int]) -> dict[str, Tensor | None]:
        """Gradients of a micro-batch, and its share of the losses of the whole step; None where the step has none."""
        num_targets, num_drawn, *apart = counts
        losses = accumulate(
            model, batch, num_targets=num_targets, num_drawn=num_drawn, chunks=self.chunks, dtype=self.dtype
        )
        text, image = losses.text.sum() / max(num_targets, 1), losses.image.sum() / max(num_drawn, 1)
        values: dict[str, Tensor | None] = {
            "loss": text + model.config.image_loss_weight * image,
            "loss_text": text if num_targets else None,
            "loss_image": image if num_drawn else None,
        }
        if apart:
            text_ids, image_ids = datasets_of_losses(batch)
            half = len(self.datasets)
            values |= self._apart("loss_text", losses.text, text_ids, apart[:half])
            values |= self._apart("loss_image", losses.image, image_ids, apart[half:])
        return values

    def _apart(self, name: str, losses: Tensor, ids: Tensor, counts: Sequence[int]) -> dict[str, Tensor | None]:
        """`name/DATASET` for each dataset; losses and ids are [K] or [M], counts those of the whole step."""
        # Sums over masks: unlike additions into places, they come out the same each time on a GPU too.
        is_of = ids == torch.arange(len(self.datasets), device=ids.device).unsqueeze(1)  # [D, K] or [D, M]
        sums = torch.where(is_of, losses, 0.0).sum(1)  # [D]
        return {
            f"{name}/{dataset}": total / count if count else None
            for dataset, total, count in zip(self.datasets, sums, counts, strict=True)
        }


def datasets_of_losses(batch: Batch | CompactBatch) -> tuple[Tensor, Tensor]:
    """Numbers of the datasets that the supervised tokens, [K], and the drawn images, [M], are from.

    Raises:
        ValueError: the batch does not tell.
    """
    if batch.dataset_ids is None:
        raise ValueError("The batch has no dataset_ids; expected them, to tell the losses of several datasets apart.")
    row, column = batch.image_positions[batch.drawn].unbind(-1)  # [M] each
    return batch.dataset_ids[batch.targets != IGNORED], batch.dataset_ids[row, column]


def count_tokens_and_images(batch: Batch | CompactBatch) -> tuple[int, int]:
    """How many tokens (no padding) and images a batch has."""
    return int((batch.document_ids >= 0).sum()), len(batch.image_positions)
