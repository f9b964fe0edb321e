"""What streams of training batches share: a batch is the collation of rows that are each made on their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from models.batch import Batch
from models.config import MMInterleavedConfig
from trainer.data.collate import collate
from trainer.data.pack import Row, SpecialTokens


class RowStream(ABC):
    """The batches of a run: `stream(step)`.

    Args:
        model: gives the sizes of pictures read and drawn, and the number of visual tokens.
        special: the tokens that are not text.
        num_rows: rows of a batch.
        row_tokens: tokens of a row.
        seed: another seed, other batches.
    """

    def __init__(
        self, model: MMInterleavedConfig, special: SpecialTokens, *, num_rows: int, row_tokens: int, seed: int
    ) -> None:
        self.image_px: int = model.vision.clip["image_size"]
        self.drawn_px = model.image_decoder.image_size
        self.num_visual_tokens = model.vision.num_visual_tokens
        self.num_rows = num_rows
        self.row_tokens = row_tokens
        self.seed = seed
        self._special = special

    def __call__(self, step: int) -> Batch:
        """Batch number `step`, with `num_rows` rows of `row_tokens` tokens."""
        return self.part(step, range(self.num_rows))

    def part(self, step: int, rows: range) -> Batch:
        """Neighbouring rows of a batch, for a process that trains on a share of it."""
        return collate(
            [self.row(step, row) for row in rows],
            self._special,
            row_tokens=self.row_tokens,
            image_px=self.image_px,
            drawn_px=self.drawn_px,
            seed=self.seed,
            step=step,
            first_row=rows.start,
        )

    @abstractmethod
    def row(self, step: int, row: int) -> Row:
        """One row of a batch, a pure function of the arguments, the settings and the seed."""
