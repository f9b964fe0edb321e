"""Buffers of one generation whose addresses stay the same: banks of values, key-value caches, and the drawing loop."""

from __future__ import annotations

from collections.abc import Mapping

from export.runtime.assets import Assets
from export.runtime.drawing import Drawing
from export.runtime.runner import ComponentRunner
from export.runtime.token_cache import TokenCache
from export.runtime.value_pool import ValuePool
from models.denoising_options import Denoising


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
        self._caches: dict[tuple[int, int], TokenCache] = {}
        self._drawing: Drawing | None = None

    def cache(self, num_rows: int, capacity: int) -> TokenCache:
        """The cache of this size; its contents are undefined."""
        if (num_rows, capacity) not in self._caches:
            self._caches[num_rows, capacity] = TokenCache(
                self.runners["llm"], self.assets.embedding, self.seen, num_rows, capacity
            )
        return self._caches[num_rows, capacity]

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
