"""What streams of training batches share: a batch is the collation of rows that are each made on their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from models.batch import Batch
from models.config import MMInterleavedConfig
from trainer.data.collate import collate
from trainer.data.compact_batch import CompactBatch
from trainer.data.pack import Row, SpecialTokens


class RowStream(ABC):
    """The batches of a run: `stream(step)`.

    Args:
        model: gives the sizes of images read and drawn, and the number of visual tokens.
        special: the tokens that are not text.
        num_rows: rows of a batch.
        row_tokens: tokens of a row.
        seed: another seed, other batches.
        datasets: names of the parts of the mixture that rows are made of.

    Raises:
        ValueError: the model reads or draws images that are no squares.
    """

    def __init__(
        self,
        model: MMInterleavedConfig,
        special: SpecialTokens,
        *,
        num_rows: int,
        row_tokens: int,
        seed: int,
        datasets: Sequence[str],
    ) -> None:
        height, width = model.image_size
        if height != width:
            raise ValueError(f"The model reads images of {width} x {height} px; training makes squares.")
        self.image_side = height
        drawn_height, drawn_width = model.drawn_image_size
        if drawn_height != drawn_width:
            raise ValueError(f"The model draws images of {drawn_width} x {drawn_height} px; training makes squares.")
        self.drawn_image_side = drawn_height
        self.num_visual_tokens = model.visual_tokenizer.num_visual_tokens
        self.num_rows = num_rows
        self.row_tokens = row_tokens
        self.seed = seed
        self.datasets = tuple(datasets)
        self._special = special

    def __call__(self, step: int) -> Batch:
        """Batch number `step`, with `num_rows` rows of `row_tokens` tokens."""
        return self.part(step, range(self.num_rows))

    def part(self, step: int, rows: range) -> Batch:
        """Neighbouring rows of a batch."""
        return self.compact_part(step, rows).to("cpu")

    def compact_part(self, step: int, rows: range) -> CompactBatch:
        """The same, to be moved to the device of a process that trains on a share of the batch."""
        return collate(
            [self.row(step, row) for row in rows],
            self._special,
            row_tokens=self.row_tokens,
            image_side=self.image_side,
            drawn_image_side=self.drawn_image_side,
            seed=self.seed,
            step=step,
            first_row=rows.start,
            datasets=self.datasets,
        )

    def keys(self, step: int) -> list[str]:
        """The keys of the documents in a batch."""
        return [document.key for row in range(self.num_rows) for document in self.row(step, row).documents]

    def read_and_broken(self) -> tuple[int, int]:
        """How many samples and images this object has read from files, and how many of them were broken."""
        return 0, 0

    @abstractmethod
    def row(self, step: int, row: int) -> Row:
        """One row of a batch, a pure function of the arguments, the settings and the seed."""
