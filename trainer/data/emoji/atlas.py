"""The sprites of the emoji world: pixels and names of the committed atlas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

SPRITE_PX = 64
ATLAS_COLUMNS = 16
ATLAS_PIXELS = Path(__file__).with_name("atlas.png")
ATLAS_NAMES = Path(__file__).with_name("atlas.json")


@dataclass(frozen=True)
class Sprite:
    """A pictograph's words: `name` ("snail"), `article` ("a", "an" or ""), `code_point` ("U+1F40C")."""

    name: str
    article: str
    code_point: str

    @property
    def phrase(self) -> str:
        """The name with its indefinite article: "a snail", "an owl", "grapes"."""
        return f"{self.article} {self.name}".lstrip()


@lru_cache(maxsize=1)
def sprites() -> tuple[Sprite, ...]:
    """All sprites; a world of n concepts uses the first n of them."""
    return tuple(Sprite(**record) for record in json.loads(ATLAS_NAMES.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _atlas() -> PILImage.Image:
    with PILImage.open(ATLAS_PIXELS) as image:
        return image.convert("RGBA")


# A world of 32 concepts in some 15 sizes and both directions stays inside; 256 concepts recycle.
@lru_cache(maxsize=4096)
def sprite_pixels(sprite: int, side: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """A sprite at a size: colour premultiplied by alpha, and alpha.

    Returns:
        `colour` uint16 [side, side, 3] (0 to 255 * 255) and `alpha` uint16 [side, side, 1] (0 to 255).
    """
    x, y = sprite % ATLAS_COLUMNS * SPRITE_PX, sprite // ATLAS_COLUMNS * SPRITE_PX
    image = _atlas().crop((x, y, x + SPRITE_PX, y + SPRITE_PX))
    if flip:
        image = image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    if side != SPRITE_PX:
        # Box-like averaging on premultiplied colour: small sprites keep their mean colour and have clean edges.
        image = image.convert("RGBa").resize((side, side), PILImage.Resampling.HAMMING).convert("RGBA")
    pixels = np.asarray(image, dtype=np.uint16)
    alpha = pixels[..., 3:]
    colour = pixels[..., :3] * alpha
    colour.flags.writeable = False
    alpha.flags.writeable = False
    return colour, alpha
