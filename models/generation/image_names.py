"""Texts that are surely meant as images: a caller forgot to open a file."""

from __future__ import annotations

import re

_SUFFIX = r"\.(?:png|jpe?g|webp|gif|bmp|tiff?|heic|avif)"

_NAME = re.compile(
    rf"(?:(?:https?|ftp|file|s3|gs)://\S*{_SUFFIX}(?:[?#]\S*)?"  # an address
    rf"|[^\s]*{_SUFFIX}"  # a path without spaces
    rf"|(?:~|\.{{0,2}})/[^\n]*{_SUFFIX}"  # a path that begins as such
    rf"|data:image/\S*)",
    re.IGNORECASE,
)


def names_an_image(text: str) -> bool:
    """Whether a whole text is the path or the address of an image, or an image as a data URI. Only its form counts: no
    file is looked for."""
    return _NAME.fullmatch(text) is not None
