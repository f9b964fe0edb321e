"""How right a drawn image of the emoji world is, measured in pixels: no learned judge, nothing hidden.

Questions, each answered by a share between 0 and 1:

* Which sprite stands where the truth has one? The drawn square is compared with every sprite of the world, rendered at
  the true size on the image's own background, mirrored or not, moved by up to `SHIFT_PX` pixels, and with nothing: the
  one colour that fits the square best. The smallest squared distance names it, so that a square without a sprite shows
  none, and a misplaced sprite counts as whatever it looks like most. All are compared as averages over 3 x 3 pixels:
  what a blurred sprite lacks are the finest details alone, and it is no less that sprite.
* What stands there that nobody asked for? Each connected region of at least `UNASKED_SHARE` of the image that is drawn
  upon, away from the squares asked for, counts as a sprite too many.
* Which background? The colour that most of the area without sprites has, named as the nearest colour.
* Is the scene right as a whole? Every sprite asked for, none besides, and the background.
* Is something drawn just where it should be? A pixel is foreground if it differs from the image's own background by
  more than `FOREGROUND_DISTANCE`; intersection over union with the foreground of the true image, found likewise. This
  one knows shapes only: the right shapes of other sprites overlap too.

Letters: h side of a drawn image in pixels, k side of a sprite's square in such pixels, C candidates, S shifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trainer.data.box_resize import box_resize
from trainer.data.emoji.atlas import sprite_pixels
from trainer.data.emoji.layouts import STEEPEST_GRADIENT
from trainer.data.emoji.world import CANVAS, COLOUR_NAMES, COLOURS

SHIFT_PX = 2
"""How far a drawn sprite may be off, in pixels of the drawn image, and still be compared in the right place."""

FOREGROUND_DISTANCE = 0.15
"""Distance from the background, in RGB with channels of 0 to 1, beyond which a pixel counts as drawn upon."""

UNASKED_DISTANCE = 0.1
"""The same beyond which the average of 3 x 3 pixels counts as drawn upon: less, for noise goes with averaging."""

UNASKED_SHARE = 1 / 64
"""The part of an image that a region has to fill to count as a sprite too many; the smallest sprites of the world are
about twice as large, a smudge is smaller."""


def to_float(pixels: np.ndarray, image_side: int) -> np.ndarray:
    """A square image averaged down: uint8 [H, H, 3] to float32 [image_side, image_side, 3] in [0, 1]."""
    return np.moveaxis(box_resize(pixels[None], image_side)[0], 0, -1)


def background_of(image: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """The background that the image seems to have: a colour that may brighten evenly across it, float32 [h, h, 3].

    It is the colour that most of the area without sprites is near, and a plane through the pixels near it, no steeper
    than the world's own backgrounds; of averages over 3 x 3 pixels, in which noise is small.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        facts: what it should show, from `world.facts`.

    Raises:
        ValueError: the squares of the sprites leave nothing free.
    """
    free = ~_near_squares(facts, len(image), 0)
    if not free.any():
        raise ValueError(f"The sprites of {facts} cover the whole image; expected some background to measure.")
    colours = _averaged(image)[free]
    # The colour that most others are near, the nearer the more, found among the colours that occur, in steps of 1/32.
    steps, counts = np.unique(np.rint(colours * 32).astype(np.int8), axis=0, return_counts=True)
    distances = np.square((steps[:, None] - steps) / np.float32(32)).sum(-1)
    nearness = np.maximum(FOREGROUND_DISTANCE**2 - distances, 0)
    commonest = steps[(nearness @ counts).argmax()] / np.float32(32)
    near = np.square(colours - commonest).sum(-1) < FOREGROUND_DISTANCE**2
    ramp = (np.arange(len(image), dtype=np.float32) + 0.5) / len(image) * 2 - 1
    places = np.stack(np.meshgrid(ramp, ramp), axis=-1)  # (x, y) in [-1, 1], as in `world.render`
    x, values = places[free][near], colours[near]
    slopes = np.linalg.lstsq(x - x.mean(0), values - values.mean(0), rcond=None)[0]  # [2, 3]
    slopes = slopes.clip(-STEEPEST_GRADIENT / 255, STEEPEST_GRADIENT / 255).astype(np.float32)
    return (values.mean(0) + (places - x.mean(0)) @ slopes).astype(np.float32)


def background_right(image: np.ndarray, facts: dict[str, Any]) -> float:
    """1 if the named colour nearest to the background's mean is the true one; arguments as for `background_of`."""
    named = np.array([COLOURS[name] for name in COLOUR_NAMES]) / 255
    distances = np.square(named - background_of(image, facts).mean((0, 1))).sum(-1)
    return float(COLOUR_NAMES[int(distances.argmin())] == facts["background"])


def sprites_right(image: np.ndarray, facts: dict[str, Any], num_concepts: int) -> float:
    """The sprites that stand in their places, shared over all that were asked for and all that nobody asked for.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        facts: what it should show, from `world.facts`.
        num_concepts: the candidates are the first so many sprites of the atlas.
    """
    background = background_of(image, facts)
    named = [nearest_sprite(image, item["square"], background, num_concepts) for item in facts["objects"]]
    right = sum(name == item["sprite"] for name, item in zip(named, facts["objects"], strict=True))
    return right / (len(named) + num_unasked(image, facts, background))


def scene_scores(image: np.ndarray, facts: dict[str, Any], num_concepts: int) -> dict[str, float]:
    """The two scores above, and 1 for the scene if the image shows every sprite asked for in its place, nothing else,
    on the right background. Arguments as for `sprites_right`."""
    sprites, background = sprites_right(image, facts, num_concepts), background_right(image, facts)
    return {"scene": float(sprites == background == 1), "sprites_in_place": sprites, "background": background}


def nearest_sprite(
    image: np.ndarray, square: tuple[int, int, int], background: np.ndarray, num_concepts: int
) -> int | None:
    """The sprite that a square of the image looks like most; None where one colour is nearer than any sprite.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        square: (x, y, side) in canvas units.
        background: float32 [h, h, 3], what the candidates stand on.
        num_concepts: number of candidates.
    """
    colour, cover = _candidates(tuple(square), len(image), num_concepts)
    rows, columns = _window(square, len(image))
    candidates = _averaged(colour + (1 - cover) * background[rows, columns]).reshape(len(colour), -1)  # [C, k * k' * 3]
    # Beyond the edge there is background, so that a sprite at the edge can be moved too.
    padded = np.pad(background, ((SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0)), mode="edge")
    padded[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX] = image
    area = padded[rows.start : rows.stop + 2 * SHIFT_PX, columns.start : columns.stop + 2 * SHIFT_PX]
    windows = np.moveaxis(sliding_window_view(area, colour.shape[1:3], axis=(0, 1)), 2, -1)  # [5, 5, k, k', 3]
    shifted = _averaged(windows)  # each by itself, so that a square of one colour stays one of one colour
    nothing = np.square(shifted - shifted.mean((2, 3), keepdims=True)).sum((2, 3, 4)).ravel()  # [S]
    drawn = shifted.reshape(len(nothing), -1)
    distances = np.square(candidates).sum(1)[:, None] + np.square(drawn).sum(1) - 2 * candidates @ drawn.T  # [C, S]
    candidate, shift = np.unravel_index(distances.argmin(), distances.shape)
    return int(candidate) // 2 if distances[candidate, shift] < nothing[shift] else None


def num_unasked(image: np.ndarray, facts: dict[str, Any], background: np.ndarray) -> int:
    """How many things the image shows that nobody asked for: connected regions that are drawn upon.

    Colours are averaged over 3 x 3 pixels first, so that noise is none, and what is within `SHIFT_PX` and such an
    average of a square asked for belongs to its sprite.

    Args:
        image: float32 [h, h, 3] in [0, 1].
        facts: what it should show, from `world.facts`.
        background: float32 [h, h, 3], from `background_of`.
    """
    drawn = np.square(_averaged(image) - background).sum(-1) > UNASKED_DISTANCE**2
    regions = _regions(drawn & ~_near_squares(facts, len(image), SHIFT_PX + 1))
    return sum(size >= UNASKED_SHARE * drawn.size for size in regions)


def foreground_iou(image: np.ndarray, true_image: np.ndarray, facts: dict[str, Any]) -> float:
    """Intersection over union of the drawn and the true foreground, both float32 [h, h, 3] in [0, 1]."""
    drawn, true = foreground(image, facts), foreground(true_image, facts)
    return float((drawn & true).sum() / max((drawn | true).sum(), 1))


def foreground(image: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """bool [h, h]: the pixels that are not of the image's own background colour."""
    return np.square(image - background_of(image, facts)).sum(-1) > FOREGROUND_DISTANCE**2


def _averaged(images: np.ndarray) -> np.ndarray:
    """Each pixel of float32 [..., h, w, 3] as the mean of the 3 x 3 pixels around it; edges are repeated outwards."""
    none = [(0, 0)] * (images.ndim - 3)
    padded = np.pad(images, [*none, (1, 1), (1, 1), (0, 0)], mode="edge")
    rows = padded[..., :-2, :, :] + padded[..., 1:-1, :, :] + padded[..., 2:, :, :]
    return (rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]) / np.float32(9)


def _near_squares(facts: dict[str, Any], image_side: int, margin_px: int) -> np.ndarray:
    """bool [h, h]: the pixels of the squares asked for, and those up to a margin around them."""
    near = np.zeros((image_side, image_side), dtype=bool)
    for item in facts["objects"]:
        rows, columns = _window(item["square"], image_side)
        top, left = max(rows.start - margin_px, 0), max(columns.start - margin_px, 0)
        near[top : rows.stop + margin_px, left : columns.stop + margin_px] = True
    return near


def _regions(drawn: np.ndarray) -> Iterator[int]:
    """The number of pixels of each region of bool [h, w]; pixels that share an edge or a corner are of one region."""
    left = {(int(y), int(x)) for y, x in np.argwhere(drawn)}
    while left:
        size, edge = 0, [left.pop()]
        while edge:
            size += 1
            y, x = edge.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            edge += around
        yield size


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
