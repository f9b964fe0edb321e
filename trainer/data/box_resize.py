"""Images made smaller by whole factors, as exact means."""

from __future__ import annotations

import numpy as np


def box_resize(pixels: np.ndarray, image_side: int) -> np.ndarray:
    """The mean of equal boxes: uint8 [N, h, w, 3] to float32 [N, 3, image_side, image_side] in [0, 1].

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
    boxes = pixels.reshape(num_images, image_side, box, image_side, box, 3)
    # Sums of bytes are whole numbers, so the result does not depend on the order of the additions.
    sums = np.zeros((num_images, image_side, image_side, 3), dtype=np.uint32)
    for row in range(box):
        for column in range(box):
            sums += boxes[:, :, row, :, column]
    return np.ascontiguousarray(np.moveaxis(sums, -1, 1), dtype=np.float32) / np.float32(255 * box * box)
