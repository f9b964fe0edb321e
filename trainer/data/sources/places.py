"""The table of a manifest: one row a sample, saying where it lies."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

PLACE = np.dtype(
    [
        ("shard", "<u4"),
        ("text_offset", "<u8"),
        ("text_size", "<u4"),
        ("image_offset", "<u8"),  # of pairs; documents name their images in their text
        ("image_size", "<u4"),
        ("is_json", "?"),
    ]
)


@lru_cache(maxsize=64)
def open_places(path: Path) -> np.ndarray:
    """The table in a file, [number of samples] of `PLACE`, mapped and not read: it may be larger than the memory."""
    return np.load(path, mmap_mode="r")
