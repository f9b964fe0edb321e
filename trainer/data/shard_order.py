"""The order in which the samples of a source are read: shards in random order, and samples at random within a window
of shards, so that a window is all that has to be at hand. By arithmetic alone: any position can be asked for at once.

The idea is that of mosaic-streaming's and Energon's shuffles; what is new in each epoch are both permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.mixture import shuffled
from trainer.data.stable_key import stable_key


@dataclass(frozen=True)
class Window:
    """Shards whose samples are read together."""

    shards: tuple[int, ...]
    """By number."""

    first: int
    """The position, in the endless order, of the first of their samples that is read."""

    end: int
    """The position after the last one."""


class ShardOrder:
    """Sample number `order(position)` stands at a position of the endless order, which runs through all samples once,
    then in another order once more, and so on.

    Args:
        shard_sizes: the samples of each shard; samples are numbered through, shard by shard.
        key: another key, another order.
        window_shards: how many shards a window has.

    Raises:
        ValueError: there is no sample.
    """

    def __init__(self, shard_sizes: Sequence[int], key: int, window_shards: int) -> None:
        self._sizes = np.array(shard_sizes, dtype=np.int64)
        self.num_samples = int(self._sizes.sum())
        if not self.num_samples:
            raise ValueError("There are no samples to put in order.")
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._key = key
        self._window_shards = window_shards
        self._epoch = -1
        self._shards = self._ends = self._window_ends = np.zeros(0, np.int64)

    def __call__(self, position: int) -> int:
        """The number of the sample at a position."""
        epoch, window, start, end = self._find(position)
        place = start + shuffled(position % self.num_samples - start, end - start, stable_key(self._key, epoch, window))
        number = int(np.searchsorted(self._ends, place, side="right"))
        shard = self._shards[number]
        return int(self._firsts[shard] + place - (self._ends[number] - self._sizes[shard]))

    def window(self, position: int) -> Window:
        """The window that a position lies in."""
        epoch, window, start, end = self._find(position)
        shards = self._shards[window * self._window_shards : (window + 1) * self._window_shards]
        before = epoch * self.num_samples
        return Window(tuple(shards.tolist()), before + start, before + end)

    def _find(self, position: int) -> tuple[int, int, int, int]:
        """Epoch and window of a position, and where the window begins and ends within the epoch."""
        epoch, index = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._shards = np.random.default_rng([self._key, epoch]).permutation(len(self._sizes))
            self._ends = np.cumsum(self._sizes[self._shards])
            last_of_each = np.arange(self._window_shards, len(self._sizes) + self._window_shards, self._window_shards)
            self._window_ends = self._ends[np.minimum(last_of_each, len(self._sizes)) - 1]
            self._epoch = epoch
        window = int(np.searchsorted(self._window_ends, index, side="right"))
        return epoch, window, int(self._window_ends[window - 1]) if window else 0, int(self._window_ends[window])
