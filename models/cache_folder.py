"""Where files go that can be fetched or made again."""

from __future__ import annotations

from pathlib import Path


def cache_folder() -> Path:
    """Below it each kind has a folder of its own, beside the compiled kernels'."""
    from mmfs.kernels import cache  # here: --help of the commands that keep something there needs no PyTorch

    return cache.cache_folder()
