"""Where things are, as numbers: fixed sine-cosine tables and the pixel centres that deformable attention starts from.

Letters: C channels, h x w a map's size, K positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

LONGEST_WAVE = 10_000.0
"""Ratio of the slowest to the fastest wave of a table (Attention Is All You Need, section 3.5)."""


def sincos_1d(length: int, dim: int, *, device: torch.device | str | None = None) -> Tensor:
    """Table of the positions 0, 1, ..., length - 1: [length, dim] float32; first half sines, second half cosines.

    Raises:
        ValueError: `dim` is odd.
    """
    return _waves(torch.arange(length, dtype=torch.float32, device=device), dim)


def sincos_2d(
    height: int,
    width: int,
    dim: int,
    *,
    grid: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Table of a height x width map, row by row: [height * width, dim] float32; the first half of the channels encodes
    y, the second x.

    Args:
        height: rows of the map.
        width: columns of the map.
        dim: channels, a multiple of 4.
        grid: (rows, columns) of the grid in whose cells positions are counted. Maps of one image that share a grid
            give the same point of the image the same code, whatever their resolution. None: the map's own cells.
        device: where to make the table.

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim is {dim}; a 2-D table needs a multiple of 4: sine and cosine for each of y and x.")
    rows, columns = grid or (height, width)
    y = _waves(_centres(height, device) * rows - 0.5, dim // 2)  # [h, C/2]
    x = _waves(_centres(width, device) * columns - 0.5, dim // 2)  # [w, C/2]
    y, x = repeat(y, "h c -> (h w) c", w=width), repeat(x, "w c -> (h w) c", h=height)
    return torch.cat([y, x], dim=-1)


def resized_sincos_2d(
    height: int, width: int, dim: int, *, table: tuple[int, int], device: torch.device | str | None = None
) -> Tensor:
    """The table of a grid of `table` (rows, columns), resized to a height x width map by bicubic interpolation:
    [height * width, dim] float32. The release's positions; at the table's own size, `sincos_2d`'s."""
    code = sincos_2d(*table, dim, device=device)
    if (height, width) == table:
        return code
    map_ = rearrange(code, "(rows columns) c -> 1 c rows columns", rows=table[0], columns=table[1])
    resized = F.interpolate(map_, size=(height, width), mode="bicubic", align_corners=False)
    return rearrange(resized, "1 c h w -> (h w) c")


def pixel_centres(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Normalised (x, y) of the pixel centres of a height x width map, row by row: [height * width, 2] float32."""
    y, x = _centres(height, device), _centres(width, device)
    return torch.stack([repeat(x, "w -> (h w)", h=height), repeat(y, "h -> (h w)", w=width)], dim=-1)


def _centres(size: int, device: torch.device | str | None) -> Tensor:
    return (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size


def _waves(positions: Tensor, dim: int) -> Tensor:
    """[K] -> [K, dim]."""
    if dim % 2:
        raise ValueError(f"dim is {dim}; a sine-cosine table needs an even number of channels.")
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim // 2)
    angles = positions[:, None] * LONGEST_WAVE**-exponents  # [K, dim/2]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
