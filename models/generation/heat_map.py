"""Weighted places in an image as a map of their density, and over the image as a picture.

Letters: n places, h x w pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SPREAD = 0.035
"""Standard deviation of the bell that each place becomes, in units of the image's longer side."""

LEAST_SIDE = 224
"""A picture is enlarged by a whole number until its shorter side has so many pixels."""

COLOURS = ((0, (90, 20, 170)), (0.5, (240, 70, 80)), (1, (255, 235, 120)))
"""From little to much: shares of the most, and RGB."""

OPACITY = 0.85
"""Of the colour where most of the weight lies."""

DOT, EDGE = (255, 255, 255), (0, 0, 0)
LARGEST_DOT, LEAST_DOT = 0.022, 0.002
"""Radius in units of the shorter side: of the largest weight, and added to each."""


def heat_map(locations: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """How much weight lies at each pixel. A place inside the image is a bell whose sum is its weight, also at the edge;
    one outside, or not finite, has no effect.

    Args:
        locations: [n, 2] float, (x, y) in [0, 1].
        weights: [n] float.
        size: (h, w).

    Returns:
        [h, w] float32.
    """
    height, width = size
    inside = ((locations >= 0) & (locations <= 1)).all(-1)
    x, y = locations[inside].float().unbind(-1)
    across, down = _bells(x, width, max(size)), _bells(y, height, max(size))
    return torch.einsum("n,nh,nw->hw", weights[inside].float(), down, across)


def _bells(centres: Tensor, length: int, longest: int) -> Tensor:
    """[n] -> [n, length], each with a sum of 1; at least a pixel wide."""
    deviation = max(SPREAD * longest, 0.5)
    pixels = torch.arange(length, device=centres.device) + 0.5
    bells = (-(((pixels - centres[:, None] * length) / deviation) ** 2) / 2).exp()
    return bells / bells.sum(1, keepdim=True)


def overlay(image: Image.Image, locations: Tensor, weights: Tensor) -> Image.Image:
    """An RGB image in grey, in colour where weight lies, with a dot at each place, whose area is its weight.

    Args:
        image: RGB, enlarged if it is small.
        locations, weights: as for `heat_map`.
    """
    times = max(1, -(-LEAST_SIDE // min(image.size)))
    width, height = times * image.width, times * image.height
    grey = image.convert("L").resize((width, height), Image.Resampling.NEAREST)
    heat = heat_map(locations, weights, (height, width)).cpu().numpy()
    share = heat / heat.max() if heat.size and heat.max() > 0 else heat
    stops = [stop for stop, _ in COLOURS]
    colours = np.stack([np.interp(share, stops, [rgb[band] for _, rgb in COLOURS]) for band in range(3)], axis=-1)
    opacity = (OPACITY * np.sqrt(share))[..., None]
    base = np.repeat(np.array(grey, dtype=np.float64)[..., None], 3, axis=-1)
    page = Image.fromarray(np.rint(base * (1 - opacity) + colours * opacity).astype(np.uint8))
    draw, side = ImageDraw.Draw(page), min(width, height)
    most = float(weights.max()) if len(weights) else 0.0
    for (x, y), weight in zip(locations.tolist(), weights.tolist(), strict=True):
        if weight > 0 and 0 <= x <= 1 and 0 <= y <= 1:
            radius = side * (LEAST_DOT + LARGEST_DOT * (weight / most) ** 0.5)
            left, top = x * width, y * height
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), outline=EDGE, fill=DOT)
    return page
