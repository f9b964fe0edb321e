"""Which part of an image is read, and at what size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["crop", "squeeze"]
"""How an image of another shape becomes one of the model's: "crop" takes the largest part of that shape in its centre,
"squeeze" all of it."""

FINER = 2
"""A larger image may be reduced by a whole factor first, to so many times the pixels that are read: bicubic resampling
from there makes the difference small (Pillow's `reducing_gap`)."""


def visible_box(size: tuple[int, int], image_size: tuple[int, int], fit: Fit) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in pixels, of what is read of an image.

    Args:
        size: (width, height) of the image.
        image_size: (height, width) of what the model reads.
        fit: which part.
    """
    width, height = size
    if fit == "squeeze":
        return 0, 0, width, height
    shrink = min(width / image_size[1], height / image_size[0])
    seen_width = min(max(round(image_size[1] * shrink), 1), width)
    seen_height = min(max(round(image_size[0] * shrink), 1), height)
    left, top = (width - seen_width) // 2, (height - seen_height) // 2
    return left, top, left + seen_width, top + seen_height


def fitted(
    image: Image.Image,
    image_size: tuple[int, int],
    fit: Fit,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """What the model reads of an RGB image: uint8 [h, w, 3].

    Args:
        image: RGB.
        image_size: (h, w).
        fit: which part of it.
        resampling: of the pixels.
    """
    box = visible_box(image.size, image_size, fit)
    if box != (0, 0, *image.size):
        image = image.crop(box)
    wanted = (image_size[1], image_size[0])
    return np.array(image if image.size == wanted else image.resize(wanted, resampling))
