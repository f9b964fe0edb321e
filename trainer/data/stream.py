"""The endless stream of training batches: batch s is a pure function of (settings, seed, s).

So a run resumes at any step, and any number of processes may make the batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from models.config import MMInterleavedConfig
from models.plain_text import PlainTextEncoder
from trainer.data.config import DataConfig
from trainer.data.emoji.tasks import TASKS, TaskOptions
from trainer.data.emoji.world import CANVAS
from trainer.data.pack import Row, SpecialTokens, Tokens, pack_row, tokenize
from trainer.data.row_stream import RowStream


def rendered_side(image_side: int) -> int:
    """The smallest size at which the world renders images that average down to `image_side` exactly."""
    return math.lcm(CANVAS, image_side)


class Stream(RowStream):
    """The batches of a run: `stream(step)`.

    Args:
        config: the data.
        model: gives the sizes of images read and drawn, and the number of visual tokens.
        seed: another seed, other documents.
    """

    def __init__(self, config: DataConfig, model: MMInterleavedConfig, *, seed: int) -> None:
        self.config = config
        tokenizer = config.tokenizer()
        self._encode = PlainTextEncoder(tokenizer)
        special = SpecialTokens.of(tokenizer)
        super().__init__(
            model,
            special,
            num_rows=config.num_rows,
            row_tokens=config.row_tokens,
            seed=seed,
            datasets=[name for name, weight in config.tasks.items() if weight],
        )
        if rendered_side(self.image_side) % self.drawn_image_side:
            raise ValueError(
                f"The model draws {self.drawn_image_side} px, images have {rendered_side(self.image_side)} px; "
                "expected a divisor, so that what it learns to draw is an exact mean."
            )
        self._names = list(config.tasks)
        weights = np.array(list(config.tasks.values()), dtype=np.float64)
        self._shares = np.cumsum(weights / weights.sum())

    def row(self, step: int, row: int) -> Row:
        """One row of a batch."""
        return pack_row(self.documents(step, row), self.row_tokens)

    def documents(self, step: int, row: int) -> Iterator[Tokens]:
        """The endless documents that one row of one batch is filled from."""
        options = TaskOptions(
            num_concepts=self.config.num_concepts,
            image_side=rendered_side(self.image_side),
            num_sprites=self.config.num_sprites_at(step),
        )
        rng = np.random.default_rng([self.seed, step, row])
        while True:
            place = min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self._names) - 1)
            document = TASKS[self._names[place]](self.seed, int(rng.integers(2**62)), "train", options)
            yield tokenize(document, self._encode, self._special, self.num_visual_tokens)
