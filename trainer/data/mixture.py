"""Which data each row takes: shares of sources, and an order of each source's samples, by arithmetic alone.

Nothing is remembered between two rows, so any row can be asked for at once, in any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from trainer.data.stable_key import stable_key

BLOCK = 2048
"""Rows in which every source has exactly its share, up to rounding."""


class Mixture:
    """Sources by weight. In every block of `BLOCK` rows, each source has its quota, in random order.

    Args:
        weights: of the sources, above 0.
        seed: another seed, another order.

    Raises:
        ValueError: a weight is not positive, or so small that a block has no row for it.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights or min(weights) <= 0:
            raise ValueError(f"The sources have the weights {list(weights)}; expected one or more, all above 0.")
        shares = np.array(weights, dtype=np.float64) * (BLOCK / sum(weights))
        quotas = np.floor(shares).astype(np.int64)
        largest_remainders = np.argsort(quotas - shares, kind="stable")[: BLOCK - quotas.sum()]
        quotas[largest_remainders] += 1
        if quotas.min() == 0:
            raise ValueError(
                f"The sources have the weights {list(weights)}; expected none below 1/{BLOCK} of their sum, for one "
                "that small would never be read."
            )
        self.quotas = tuple(quotas.tolist())
        """Rows of each source in a block."""

        self._seed = seed

    def __call__(self, row: int) -> tuple[int, int]:
        """The source of a row, counted over the whole run, and how many rows before it had the same source."""
        block, place = divmod(row, BLOCK)
        source = int(_block_order(self.quotas, self._seed, block)[place])
        return source, self.before(row)[source]

    def before(self, row: int) -> list[int]:
        """How many of the rows before one are of each source."""
        block, place = divmod(row, BLOCK)
        begun = np.bincount(_block_order(self.quotas, self._seed, block)[:place], minlength=len(self.quotas))
        return [block * quota + int(count) for quota, count in zip(self.quotas, begun, strict=True)]


@lru_cache(maxsize=4)
def _block_order(quotas: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    sources = np.repeat(np.arange(len(quotas)), quotas)
    return np.random.default_rng([seed, block]).permutation(sources)


def shuffled(index: int, count: int, key: int) -> int:
    """Where `index` comes to lie in a random order of `count` things that `key` names: a permutation of range(count).

    A Feistel network over the next power of four; what falls outside goes round again.
    """
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for turn in range(4):
            left, right = right, left ^ (stable_key(key, turn, right) & mask)
        index = (left << half_bits) | right
        if index < count:
            return index
