"""Where files go that can be fetched or made again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def cache_folder() -> Path:
    """Below it each kind has a folder of its own, beside the compiled kernels'."""
    from mmfs.kernels import cache  # here: --help of the commands that keep something there needs no PyTorch

    return cache.cache_folder()


def folder_of_url(kind: str, url: str, *what: object, suffix: str = "") -> Path:
    """Where something of a URL is kept: `<kind>/<last part of the URL>-<digest><suffix>`.

    Args:
        kind: of what is kept.
        url: of where it comes from or goes to.
        what: else makes it another one; told apart by `repr`.
        suffix: ends the name.
    """
    key = hashlib.sha256(repr((url, *what)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_folder() / kind / f"{url.rpartition('/')[2]}-{key}{suffix}"
