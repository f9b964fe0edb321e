"""Everything of one generation that has an address: banks of values, pasts, and the drawing loop."""

from __future__ import annotations

from collections.abc import Mapping

from export.runtime.assets import Assets
from export.runtime.drawing import Drawing
from export.runtime.runner import ComponentRunner
from export.runtime.token_cache import TokenCache
from export.runtime.value_pool import ValuePool
from models.denoising import Denoising


class Memory:
    """Lent to one generation at a time and used again by the next, so that what was recorded stays valid.

    Args:
        parts: the components.
        assets: what they need beside them.
    """

    def __init__(self, parts: Mapping[str, ComponentRunner], assets: Assets) -> None:
        self.parts, self.assets = parts, assets
        self.seen = _pool(parts, "mmfs_values_llm", "llm")
        self.drawn_from = _pool(parts, "mmfs_values_unet", "unet_mmfs")
        self._caches: dict[tuple[int, int], TokenCache] = {}
        self._drawing: Drawing | None = None

    def cache(self, num_rows: int, capacity: int) -> TokenCache:
        """The cache of this size; what is in it is anybody's."""
        if (num_rows, capacity) not in self._caches:
            self._caches[num_rows, capacity] = TokenCache(
                self.parts["llm"], self.assets.embedding, self.seen, num_rows, capacity
            )
        return self._caches[num_rows, capacity]

    def drawing(self, num_pictures: int, denoising: Denoising) -> Drawing:
        """The loop for so many pictures, guided so; only the last one is kept."""
        kept = self._drawing
        if kept is None or len(kept.latents) != num_pictures or _guidance(kept.denoising) != _guidance(denoising):
            unet = self.parts["unet_mmfs"]
            kept = self._drawing = Drawing(unet, self.drawn_from, self.assets.schedule, num_pictures, denoising)
        return kept


def _pool(parts: Mapping[str, ComponentRunner], project: str, network: str) -> ValuePool:
    part = parts[network]
    ports = {name: port for name, port in part.inputs.items() if "mmfs_value_" in name}
    return ValuePool(parts.get(project), ports, part.device, part.most("images") if ports else None)


def _guidance(denoising: Denoising) -> tuple[float, float]:
    return denoising.guidance_scale, denoising.image_guidance_scale
