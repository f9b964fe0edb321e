"""Images made smaller by whole factors, as exact means."""

from __future__ import annotations

import numpy as np


def box_sums(pixels: np.ndarray, image_side: int) -> tuple[np.ndarray, int]:
    """The sums of equal boxes, and what a white box sums up to: the mean in [0, 1] is the first divided by the second.

    Args:
        pixels: uint8 [N, h, w, 3].
        image_side: of the result, in pixels.

    Returns:
        [N, 3, image_side, image_side], in the smallest of uint8, int16 and int32 that holds the sum of a white box, and
        that sum.

    Raises:
        ValueError: the images are not squares whose side is a multiple of `image_side`.
    """
    num_images, height, width, _ = pixels.shape
    if height != width or height % image_side:
        raise ValueError(
            f"An image of {width} x {height} px cannot be averaged down to {image_side} px; "
            f"expected a square whose side is a multiple of {image_side}."
        )
    box = height // image_side
    white = 255 * box * box
    dtype = next(kind for kind in (np.uint8, np.int16, np.int32) if white <= np.iinfo(kind).max)
    boxes = pixels.reshape(num_images, image_side, box, image_side, box, 3)
    # Sums of bytes are whole numbers, so the result does not depend on the order of the additions.
    sums = np.zeros((num_images, image_side, image_side, 3), dtype=dtype)
    for row in range(box):
        for column in range(box):
            sums += boxes[:, :, row, :, column]
    return np.ascontiguousarray(np.moveaxis(sums, -1, 1)), white


def box_resize(pixels: np.ndarray, image_side: int) -> np.ndarray:
    """The mean of equal boxes: uint8 [N, h, w, 3] to float32 [N, 3, image_side, image_side] in [0, 1].

    Raises what `box_sums` raises.
    """
    sums, white = box_sums(pixels, image_side)
    return sums.astype(np.float32) / np.float32(white)
