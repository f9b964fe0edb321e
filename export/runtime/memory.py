"""Buffers of one generation whose addresses stay the same: banks of values, key-value caches, and the drawing loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import TypeVar

from export.runtime.assets import Assets
from export.runtime.drawing import Drawing
from export.runtime.runner import ComponentRunner
from export.runtime.token_cache import TokenCache
from export.runtime.value_pool import ValuePool

MOST_SIZES = 4
"""Sizes of batches whose buffers are kept: while documents join and leave, the last few sizes come again."""

Kept = TypeVar("Kept")


class Memory:
    """Used by one generation at a time and again by the next, so that recorded CUDA graphs stay valid.

    Args:
        runners: the components.
        assets: what they need beside them.
    """

    def __init__(self, runners: Mapping[str, ComponentRunner], assets: Assets) -> None:
        self.runners, self.assets = runners, assets
        self.seen = _pool(runners, "mmfs_values_llm", "llm")
        self.drawn_from = _pool(runners, "mmfs_values_unet", "unet_mmfs")
        self._caches: dict[tuple[int, int], TokenCache] = {}  # the one used last is last
        self._drawings: dict[tuple[int, int], Drawing] = {}

    def cache(self, num_rows: int, capacity: int) -> TokenCache:
        """The cache of this size; its contents are undefined. The last `MOST_SIZES` are kept, with what was recorded
        for them."""
        llm, embedding = self.runners["llm"], self.assets.embedding
        return _kept(
            self._caches, (num_rows, capacity), lambda: TokenCache(llm, embedding, self.seen, num_rows, capacity)
        )

    def with_copies(self, owners: Collection[int]) -> Memory:
        """Another memory, with the images of these documents."""
        other = copy(self)
        other.seen, other.drawn_from = self.seen.of(owners), self.drawn_from.of(owners)
        other._caches, other._drawings = {}, {}
        return other

    @property
    def pools(self) -> tuple[ValuePool, ValuePool]:
        """The images that the language model sees, and those that the U-Net draws from."""
        return self.seen, self.drawn_from

    def drawing(self, num_images: int, num_predictions: int) -> Drawing:
        """The step for so many images with so many predictions in all; its contents are undefined. The last
        `MOST_SIZES` are kept, with what was recorded for them."""
        unet, schedule = self.runners["unet_mmfs"], self.assets.schedule
        return _kept(
            self._drawings,
            (num_images, num_predictions),
            lambda: Drawing(unet, self.drawn_from, schedule, num_images, num_predictions),
        )


def _kept(kept: dict[tuple[int, int], Kept], size: tuple[int, int], make: Callable[[], Kept]) -> Kept:
    """What is kept for a size, or a new one in place of the one that was used longest ago."""
    one = kept.pop(size, None)
    if one is None:
        while len(kept) >= MOST_SIZES:
            del kept[next(iter(kept))]
        one = make()
    kept[size] = one
    return one


def _pool(runners: Mapping[str, ComponentRunner], project: str, network: str) -> ValuePool:
    runner = runners[network]
    ports = {name: port for name, port in runner.inputs.items() if port.role == "bank"}
    return ValuePool(runners.get(project), ports, runner.device, runner.most("images") if ports else None)
