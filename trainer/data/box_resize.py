"""Images made smaller by whole factors, as exact means."""

from __future__ import annotations

import numpy as np


def box_resize(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """The mean of equal boxes: uint8 [N, H, W, 3] to float32 [N, 3, size_px, size_px] in [0, 1].

    Raises:
        ValueError: the pictures are not squares whose side is a multiple of `size_px`.
    """
    num_images, height, width, _ = pixels.shape
    if height != width or height % size_px:
        raise ValueError(
            f"A picture of {width} x {height} px cannot be averaged down to {size_px} px; "
            f"expected a square whose side is a multiple of {size_px}."
        )
    box = height // size_px
    boxes = pixels.reshape(num_images, size_px, box, size_px, box, 3)
    # Sums of bytes are whole numbers, so the result does not depend on the order of the additions.
    sums = np.zeros((num_images, size_px, size_px, 3), dtype=np.uint32)
    for row in range(box):
        for column in range(box):
            sums += boxes[:, :, row, :, column]
    return np.ascontiguousarray(np.moveaxis(sums, -1, 1), dtype=np.float32) / np.float32(255 * box * box)
