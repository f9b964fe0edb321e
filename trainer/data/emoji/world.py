"""Scenes of sprites on a coloured background, their images and their exact labels.

A scene is described on a canvas of 64 x 64 units, so that it looks the same at every image size.
Letters: P sprites in a scene, H = W = image size in pixels.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trainer.data.emoji.atlas import sprite_pixels, sprites
from trainer.data.emoji.digits import DIGIT_HEIGHT, DIGIT_WIDTH, DIGITS, NUMBER_WIDTH

CANVAS = 64
INK = 16
"""Grey level of printed numbers; every background is light enough to read it."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (236, 104, 98),
    "orange": (245, 168, 82),
    "yellow": (247, 228, 110),
    "green": (122, 198, 112),
    "blue": (104, 160, 240),
    "purple": (178, 130, 222),
    "gray": (158, 158, 158),
    "white": (244, 244, 244),
}
COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Placed:
    """A sprite in a scene; its square has the corner (x, y) and the side `size`, in canvas units."""

    sprite: int
    x: int
    y: int
    size: int
    flip: bool = False
    number: int | None = None
    """0 to 99, printed with two digits one unit below the square."""

    def __post_init__(self) -> None:
        bottom = self.y + self.size + (1 + DIGIT_HEIGHT if self.number is not None else 0)
        if self.size < 1 or min(self.x, self.y) < 0 or self.x + self.size > CANVAS or bottom > CANVAS:
            raise ValueError(f"{self} leaves the canvas of {CANVAS} x {CANVAS} units; expected it to lie inside.")
        if self.number is not None and not (0 <= self.number <= 99 and 0 <= self.number_x <= CANVAS - NUMBER_WIDTH):
            raise ValueError(f"{self} has a number outside 00 to 99, or one whose digits leave the canvas.")

    @property
    def number_x(self) -> int:
        """Left edge of the printed number, canvas units; its top edge is `y + size + 1`."""
        return self.x + (self.size - NUMBER_WIDTH) // 2


@dataclass(frozen=True)
class Scene:
    """A background and what stands on it; later sprites cover earlier ones, numbers cover sprites."""

    colour: int
    """Index into COLOUR_NAMES."""

    placed: tuple[Placed, ...]
    gradient: tuple[int, int] = (0, 0)
    """Grey levels by which the background brightens from the centre to the right edge and to the bottom edge."""


def _scale(image_side: int) -> int:
    if image_side < CANVAS or image_side % CANVAS:
        raise ValueError(
            f"An image of {image_side} px was asked for; expected a multiple of {CANVAS} px. "
            "Render a larger image and average it down to get a smaller one."
        )
    return image_side // CANVAS


@lru_cache(maxsize=1024)
def _background(colour: int, gradient: tuple[int, int], image_side: int) -> np.ndarray:
    ramp = (np.arange(image_side) + 0.5) / image_side * 2 - 1
    grey = gradient[0] * ramp[None, :, None] + gradient[1] * ramp[:, None, None]
    pixels = np.array(COLOURS[COLOUR_NAMES[colour]], dtype=np.float64) + grey
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


@lru_cache(maxsize=256)
def _number_ink(number: int, scale: int) -> np.ndarray:
    """bool [DIGIT_HEIGHT * scale, NUMBER_WIDTH * scale]."""
    ink = np.zeros((DIGIT_HEIGHT, NUMBER_WIDTH), dtype=bool)
    ink[:, :DIGIT_WIDTH] = DIGITS[number // 10]
    ink[:, DIGIT_WIDTH + 1 :] = DIGITS[number % 10]
    return ink.repeat(scale, 0).repeat(scale, 1)


def render(scene: Scene, image_side: int = CANVAS) -> np.ndarray:
    """The image: uint8 [image_side, image_side, 3], RGB; `image_side` is a multiple of 64 (else ValueError)."""
    scale = _scale(image_side)
    image = _background(scene.colour, scene.gradient, image_side).copy()
    for item in scene.placed:
        x, y, side = item.x * scale, item.y * scale, item.size * scale
        colour, alpha = sprite_pixels(item.sprite, side, item.flip)
        window = image[y : y + side, x : x + side]
        window[...] = (colour + window * (255 - alpha) + np.uint16(127)) // np.uint16(255)
    for item in scene.placed:
        if item.number is not None:
            ink = _number_ink(item.number, scale)
            x, y = item.number_x * scale, (item.y + item.size + 1) * scale
            image[y : y + ink.shape[0], x : x + ink.shape[1]][ink] = INK
    return image


@lru_cache(maxsize=4096)
def _silhouette(sprite: int, side: int, flip: bool) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """bool [side, side], at least half covered; and the tight box (x1, y1, x2, y2) around it, right and bottom open."""
    mask = sprite_pixels(sprite, side, flip)[1][..., 0] >= 128
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def masks(scene: Scene, image_side: int = CANVAS) -> np.ndarray:
    """bool [P, h, w]: the pixels that show each sprite, at least half covered by it and by no later one."""
    scale = _scale(image_side)
    result = np.zeros((len(scene.placed), image_side, image_side), dtype=bool)
    for index, item in enumerate(scene.placed):
        x, y, side = item.x * scale, item.y * scale, item.size * scale
        silhouette = _silhouette(item.sprite, side, item.flip)[0]
        result[:index, y : y + side, x : x + side] &= ~silhouette
        result[index, y : y + side, x : x + side] = silhouette
    return result


def boxes(scene: Scene, image_side: int = CANVAS) -> list[tuple[int, int, int, int]]:
    """For each sprite the tight box (x1, y1, x2, y2) of its silhouette in pixels, right and bottom open.

    The box is of the whole sprite, also where a later one covers it.
    """
    scale = _scale(image_side)
    result = []
    for item in scene.placed:
        x1, y1, x2, y2 = _silhouette(item.sprite, item.size * scale, item.flip)[1]
        x, y = item.x * scale, item.y * scale
        result.append((x + x1, y + y1, x + x2, y + y2))
    return result


def box_per_mille(box_px: tuple[int, int, int, int], image_side: int) -> tuple[int, int, int, int]:
    """A pixel box in the paper's coordinates for grounding, 000 to 999."""
    x1, y1, x2, y2 = (min(999, round(1000 * edge / image_side)) for edge in box_px)
    return x1, y1, x2, y2


@lru_cache(maxsize=1)
def label_colours() -> np.ndarray:
    """uint8 [256, 3]: a colour for each sprite, all different, none dark; hues by the golden ratio."""
    values = [
        colorsys.hsv_to_rgb(index * 0.61803398875 % 1, (1.0, 0.55, 0.8)[index % 3], (1.0, 0.95, 0.7)[index // 3 % 3])
        for index in range(len(sprites()))
    ]
    return np.rint(np.array(values) * 255).astype(np.uint8)


def label_map(scene: Scene, image_side: int = CANVAS) -> np.ndarray:
    """Class-coloured silhouettes on black: uint8 [h, w, 3]; the background's colour does not show."""
    image = np.zeros((image_side, image_side, 3), dtype=np.uint8)
    for item, mask in zip(scene.placed, masks(scene, image_side), strict=True):
        image[mask] = label_colours()[item.sprite]
    return image


def num_label_classes(num_concepts: int) -> int:
    """How many classes `dense_labels` has: background, sprites, ten digits."""
    return 1 + num_concepts + 10


def dense_labels(scene: Scene, num_concepts: int, image_side: int = CANVAS) -> np.ndarray:
    """int64 [h, w]: 0 background, 1 + sprite, and 1 + num_concepts + digit on the 4 x 6 cell of a printed digit."""
    scale = _scale(image_side)
    labels = np.zeros((image_side, image_side), dtype=np.int64)
    for item, mask in zip(scene.placed, masks(scene, image_side), strict=True):
        if item.sprite >= num_concepts:
            raise ValueError(f"The scene shows sprite {item.sprite}; expected one of the first {num_concepts}.")
        labels[mask] = 1 + item.sprite
    for item in scene.placed:
        if item.number is not None:
            y = (item.y + item.size + 1) * scale
            for place, digit in enumerate(divmod(item.number, 10)):
                x = (item.number_x + place * (DIGIT_WIDTH + 1)) * scale
                labels[y : y + DIGIT_HEIGHT * scale, x : x + DIGIT_WIDTH * scale] = 1 + num_concepts + digit
    return labels


def number_labels(scene: Scene, image_side: int = CANVAS) -> np.ndarray:
    """int64 [h, w]: on the pixels of a sprite the number printed under it; -1 where there is none."""
    labels = np.full((image_side, image_side), -1, dtype=np.int64)
    for item, mask in zip(scene.placed, masks(scene, image_side), strict=True):
        if item.number is not None:
            labels[mask] = item.number
    return labels


def layout_labels(scene: Scene, num_concepts: int) -> tuple[np.ndarray, np.ndarray]:
    """Which sprites stand in the scene, and where: bool [num_concepts]; float32 [num_concepts, 2], the centre (x, y) of
    each sprite's square in [0, 1], 0 for one that is absent."""
    present = np.zeros(num_concepts, dtype=bool)
    centres = np.zeros((num_concepts, 2), dtype=np.float32)
    for item in scene.placed:
        present[item.sprite] = True
        centres[item.sprite] = (item.x + item.size / 2) / CANVAS, (item.y + item.size / 2) / CANVAS
    return present, centres


def facts(scene: Scene, image_side: int) -> dict[str, Any]:
    """What is true about an image, in plain types: the background, and of each object its name, square and number.

    `square` is (x, y, side) in canvas units, `box_px` the tight box in pixels, `box` the same in 000 to 999.
    """
    objects = []
    for item, box in zip(scene.placed, boxes(scene, image_side), strict=True):
        objects.append(
            {
                "name": sprites()[item.sprite].name,
                "sprite": item.sprite,
                "square": [item.x, item.y, item.size],
                "box_px": list(box),
                "box": list(box_per_mille(box, image_side)),
                "number": item.number,
            }
        )
    return {"background": COLOUR_NAMES[scene.colour], "objects": objects}
