"""The endless stream of training batches: batch s is a pure function of (settings, seed, s).

So a run resumes at any step, and any number of processes may make the batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from models.config import MMInterleavedConfig
from trainer.data.emoji.compositions import MIN_CONCEPTS
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, TASKS, TaskOptions
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.data.emoji.world import CANVAS
from trainer.data.pack import Row, SpecialTokens, Tokens, pack_row, tokenize
from trainer.data.row_stream import RowStream


def _even_weights() -> dict[str, float]:
    return dict.fromkeys(PRETRAINING_FAMILIES, 1.0)


@dataclass(frozen=True)
class DataConfig:
    """The emoji world as training data. Sizes of pictures and visual tokens are the model's."""

    num_rows: int = 16
    """Rows in a batch."""

    row_tokens: int = 128
    """Tokens in a row."""

    num_concepts: int = 32
    """How many sprites occur, 8 to 256."""

    num_sprites: int = 9
    """The most sprites in a picture to read numbers from, 1 to 9."""

    ramp_steps: int = 0
    """Steps over which the most sprites in a picture to read grow from 1 to `num_sprites`; 0: all from the start."""

    tasks: dict[str, float] = field(default_factory=_even_weights)
    """Weight of each task family: its share of the documents. A family left out has none."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"data.tasks has {unknown}; expected some of {list(TASKS)}.")
        if min(self.tasks.values(), default=0) < 0 or not sum(self.tasks.values()) > 0:
            raise ValueError(f"data.tasks is {self.tasks}; expected weights of at least 0, one of them above 0.")
        if self.num_rows < 1 or self.row_tokens < 1:
            raise ValueError(f"data has {self.num_rows} rows of {self.row_tokens} tokens; expected 1 or more of each.")
        if self.ramp_steps < 0:
            raise ValueError(f"data.ramp_steps is {self.ramp_steps}; expected 0 or more.")
        if not 1 <= self.num_sprites <= 9:
            raise ValueError(f"data.num_sprites is {self.num_sprites}; expected 1 to 9.")
        least = max(MIN_CONCEPTS, 3 * self.num_sprites)
        if not least <= self.num_concepts <= 256:
            raise ValueError(
                f"data.num_concepts is {self.num_concepts}; with {self.num_sprites} sprites in a picture expected "
                f"{least} to 256, so that pictures without held-out compositions always exist."
            )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the world's text is written in."""
        return load_tokenizer()

    def num_sprites_at(self, step: int) -> int:
        """The most sprites in a picture to read at a step of the training."""
        if step >= self.ramp_steps:
            return self.num_sprites
        return 1 + step * (self.num_sprites - 1) // self.ramp_steps


def picture_px(image_px: int) -> int:
    """The smallest size at which the world renders pictures that average down to `image_px` exactly."""
    return math.lcm(CANVAS, image_px)


class Stream(RowStream):
    """The batches of a run: `stream(step)`.

    Args:
        config: the data.
        model: gives the sizes of pictures read and drawn, and the number of visual tokens.
        seed: another seed, other documents.
    """

    def __init__(self, config: DataConfig, model: MMInterleavedConfig, *, seed: int) -> None:
        self.config = config
        self._tokenizer = config.tokenizer()
        special = SpecialTokens.of(self._tokenizer)
        super().__init__(
            model,
            special,
            num_rows=config.num_rows,
            row_tokens=config.row_tokens,
            seed=seed,
            datasets=[name for name, weight in config.tasks.items() if weight],
        )
        if picture_px(self.image_px) % self.drawn_px:
            raise ValueError(
                f"The model draws {self.drawn_px} px, pictures have {picture_px(self.image_px)} px; "
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
            image_px=picture_px(self.image_px),
            num_sprites=self.config.num_sprites_at(step),
        )
        rng = np.random.default_rng([self.seed, step, row])
        while True:
            place = min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self._names) - 1)
            document = TASKS[self._names[place]](self.seed, int(rng.integers(2**62)), "train", options)
            yield tokenize(document, self._tokenizer, self._special, self.num_visual_tokens)
