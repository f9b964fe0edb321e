"""Buffers of one generation whose addresses stay the same: banks of values, key-value caches, and the drawing loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy

from export.runtime.assets import Assets
from export.runtime.drawing import Drawing
from export.runtime.runner import ComponentRunner
from export.runtime.token_cache import TokenCache
from export.runtime.value_pool import ValuePool
from models.denoising_options import Denoising

MOST_CACHES = 4
"""Sizes of caches that are kept: while documents join and leave, the last few sizes come again."""


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
        self._drawing: Drawing | None = None

    def cache(self, num_rows: int, capacity: int) -> TokenCache:
        """The cache of this size; its contents are undefined. The last `MOST_CACHES` are kept, with what was recorded
        for them."""
        kept = self._caches.pop((num_rows, capacity), None)
        if kept is None:
            while len(self._caches) >= MOST_CACHES:
                del self._caches[next(iter(self._caches))]
            kept = TokenCache(self.runners["llm"], self.assets.embedding, self.seen, num_rows, capacity)
        self._caches[num_rows, capacity] = kept
        return kept

    def with_copies(self, owners: Collection[int]) -> Memory:
        """Another memory, with the images of these documents."""
        other = copy(self)
        other.seen, other.drawn_from = self.seen.of(owners), self.drawn_from.of(owners)
        other._caches, other._drawing = {}, None
        return other

    @property
    def pools(self) -> tuple[ValuePool, ValuePool]:
        """The images that the language model sees, and those that the U-Net draws from."""
        return self.seen, self.drawn_from

    def drawing(self, num_images: int, denoising: Denoising) -> Drawing:
        """The loop for this number of images and this guidance; only the last one is kept."""
        kept = self._drawing
        if kept is None or len(kept.latents) != num_images or _guidance(kept.denoising) != _guidance(denoising):
            unet = self.runners["unet_mmfs"]
            kept = self._drawing = Drawing(unet, self.drawn_from, self.assets.schedule, num_images, denoising)
        return kept


def _pool(runners: Mapping[str, ComponentRunner], project: str, network: str) -> ValuePool:
    runner = runners[network]
    ports = {name: port for name, port in runner.inputs.items() if port.role == "bank"}
    return ValuePool(runners.get(project), ports, runner.device, runner.most("images") if ports else None)


def _guidance(denoising: Denoising) -> tuple[float, float]:
    return denoising.guidance_scale, denoising.image_guidance_scale
