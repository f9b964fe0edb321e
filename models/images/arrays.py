"""Images that are given as numbers: checked, since a wrong range or a wrong order of axes looks like an image too."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.images.rgb import HALF_STEP


def array_to_image(array: np.ndarray) -> Image.Image:
    """A uint8 array [h, w, 3] as RGB.

    Raises:
        ValueError: another shape or dtype.
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"An image array must be uint8 [h, w, 3] with values from 0 to 255; got {array.dtype} "
            f"{list(array.shape)}. {_way_out(array)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _way_out(array: np.ndarray) -> str:
    if array.ndim == 3 and array.shape[0] == 3 != array.shape[2]:
        return "Put the channels last: numpy.moveaxis(array, 0, -1)."
    if array.ndim == 2 and array.dtype in (np.uint8, np.uint16):
        return "Pass grey as a PIL image: PIL.Image.fromarray(array)."
    if array.ndim == 3 and array.shape[2] == 4:
        return "Pass transparency as a PIL image: PIL.Image.fromarray(array)."
    return "Convert it, or pass a PIL image."


def checked_tensor(image: Tensor) -> Tensor:
    """A float tensor [3, h, w] in [0, 1], as float32 and exactly within.

    Raises:
        ValueError: another shape or dtype, or values outside by more than half a step of eight bits.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or 0 in image.shape:
        raise ValueError(
            f"An image tensor must be float [3, h, w] in [0, 1]; got {image.dtype} {list(image.shape)}. "
            "Convert it, or pass a PIL image."
        )
    low, high = (float(edge) for edge in torch.aminmax(image.detach()))  # NaN, if any value is
    if not (low >= -HALF_STEP and high <= 1 + HALF_STEP):
        raise ValueError(
            f"An image tensor must be float [3, h, w] in [0, 1]; got "
            f"{'NaN' if math.isnan(low) else f'values from {low:g} to {high:g}'}. {_way_into_range(low, high)}"
        )
    return image.float().clamp(0, 1)


def _way_into_range(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "Look where it comes from."
    return "Divide it by 255." if low >= 0 and 1.5 < high <= 255 else "Undo its normalisation, or clamp it."


def tensor_to_image(pixels: Tensor) -> Image.Image:
    """[3, h, w] float in [0, 1], or a little outside, to RGB.

    Raises:
        ValueError: it holds NaN.
    """
    if pixels.isnan().any():
        raise ValueError(
            "The image holds NaN. Where a model drew it, its weights are damaged, or overflow in this dtype or with "
            "this guidance_scale."
        )
    return Image.fromarray((pixels.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
