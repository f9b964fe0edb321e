"""How right a drawn image of the emoji world is, measured in pixels: no learned judge, nothing hidden.

Three questions, each answered by a share between 0 and 1:

* Which sprite stands where the truth has one? The drawn square is compared with every sprite of the world, rendered at
  the true size on the image's own background, mirrored or not, moved by up to `SHIFT_PX` pixels. The smallest mean
  squared distance names it: a blurred, misplaced or missing sprite counts as whatever it looks like most.
* Which background? The median colour of the area where the truth has no sprite, named as the nearest colour.
* Is something drawn just where it should be? A pixel is foreground if it differs from the image's own background by
  more than `FOREGROUND_DISTANCE`; intersection over union with the foreground of the true image, found likewise.

Letters: h side of a drawn image in pixels, k side of a sprite's square in such pixels, C candidates, S shifts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trainer.data.box_resize import box_resize
from trainer.data.emoji.atlas import sprite_pixels
from trainer.data.emoji.world import CANVAS, COLOUR_NAMES, COLOURS

SHIFT_PX = 2
"""How far a drawn sprite may be off, in pixels of the drawn image, and still be compared in the right place."""

FOREGROUND_DISTANCE = 0.15
"""Distance from the background, in RGB with channels of 0 to 1, beyond which a pixel counts as drawn upon."""


def to_float(pixels: np.ndarray, image_side: int) -> np.ndarray:
    """A square image averaged down: uint8 [H, H, 3] to float32 [image_side, image_side, 3] in [0, 1]."""
    return np.moveaxis(box_resize(pixels[None], image_side)[0], 0, -1)


def background_colour(image: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """The median colour of the area without sprites, float32 [3].

    Args:
        image: float32 [h, h, 3] in [0, 1].
        facts: what it should show, from `world.facts`.

    Raises:
        ValueError: the squares of the sprites leave nothing free.
    """
    free = np.ones(image.shape[:2], dtype=bool)
    for item in facts["objects"]:
        rows, columns = _window(item["square"], len(image))
        free[rows, columns] = False
    if not free.any():
        raise ValueError(f"The sprites of {facts} cover the whole image; expected some background to measure.")
    return np.median(image[free], axis=0)


def background_right(image: np.ndarray, facts: dict[str, Any]) -> float:
    """1 if the background's nearest named colour is the true one; arguments as for `background_colour`."""
    named = np.array([COLOURS[name] for name in COLOUR_NAMES]) / 255
    distances = np.square(named - background_colour(image, facts)).sum(-1)
    return float(COLOUR_NAMES[int(distances.argmin())] == facts["background"])


def sprites_right(image: np.ndarray, facts: dict[str, Any], num_concepts: int) -> float:
    """Share of the true sprites that the image shows in their places.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        facts: what it should show, from `world.facts`.
        num_concepts: the candidates are the first so many sprites of the atlas.
    """
    background = background_colour(image, facts)
    named = [nearest_sprite(image, item["square"], background, num_concepts) for item in facts["objects"]]
    return float(np.mean([name == item["sprite"] for name, item in zip(named, facts["objects"], strict=True)]))


def nearest_sprite(image: np.ndarray, square: tuple[int, int, int], background: np.ndarray, num_concepts: int) -> int:
    """The sprite that a square of the image looks like most.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        square: (x, y, side) in canvas units.
        background: float32 [3], the colour that the candidates stand on.
        num_concepts: number of candidates.
    """
    colour, cover = _candidates(tuple(square), len(image), num_concepts)
    candidates = colour + (1 - cover) * background  # [C, k, k', 3]
    shape = candidates.shape[1:3]
    rows, columns = _window(square, len(image))
    # Beyond the edge there is background, so that a sprite at the edge can be moved too.
    padded = np.full((*(side + 2 * SHIFT_PX for side in image.shape[:2]), 3), background, dtype=np.float32)
    padded[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX] = image
    area = padded[rows.start : rows.stop + 2 * SHIFT_PX, columns.start : columns.stop + 2 * SHIFT_PX]
    shifted = np.moveaxis(sliding_window_view(area, shape, axis=(0, 1)), 2, -1)  # [5, 5, k, k', 3]
    a, b = candidates.reshape(len(candidates), -1), shifted.reshape(-1, candidates[0].size)
    distances = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T  # [C, S]
    return int(distances.min(1).argmin()) // 2


def foreground_iou(image: np.ndarray, true_image: np.ndarray, facts: dict[str, Any]) -> float:
    """Intersection over union of the drawn and the true foreground, both float32 [h, h, 3] in [0, 1]."""
    drawn, true = foreground(image, facts), foreground(true_image, facts)
    return float((drawn & true).sum() / max((drawn | true).sum(), 1))


def foreground(image: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """bool [h, h]: the pixels that are not of the image's own background colour."""
    distance = np.sqrt(np.square(image - background_colour(image, facts)).sum(-1))
    return distance > FOREGROUND_DISTANCE


def _window(square: tuple[int, int, int], image_side: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a square of the canvas touches."""
    x, y, side = square
    columns, rows = (slice(start * image_side // CANVAS, -(-(start + side) * image_side // CANVAS)) for start in (x, y))
    return rows, columns


@lru_cache(maxsize=512)
def _candidates(square: tuple[int, int, int], image_side: int, num_concepts: int) -> tuple[np.ndarray, np.ndarray]:
    """Each sprite in the square, plain and mirrored: colour times cover [C, k, k', 3], and cover [C, k, k', 1]."""
    x, y, side = square
    rows, columns = _window(square, image_side)
    box = CANVAS // image_side
    top, left = y - rows.start * box, x - columns.start * box  # of the square in the canvas units of its window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    canvas = np.zeros((2 * num_concepts, height * box, width * box, 4), dtype=np.float32)
    for sprite in range(num_concepts):
        for flip in (False, True):
            colour, alpha = sprite_pixels(sprite, side, flip)
            place = canvas[2 * sprite + flip, top : top + side, left : left + side]
            place[..., :3], place[..., 3:] = colour / np.float32(255**2), alpha / np.float32(255)
    shrunk = canvas.reshape(len(canvas), height, box, width, box, 4).mean((2, 4))
    return shrunk[..., :3], shrunk[..., 3:]
