"""Colours with an ICC profile to sRGB, which the model reads (littleCMS, as browsers and viewers do it)."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 << 20
"""Those of printing presses have 0.5 to 3 MB; a larger one is ignored."""

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""A mode and the colours that its profile has to be for."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB; None where it is in sRGB already, or the profile is damaged or for other colours, as viewers
    ignore it then.

    Args:
        image: of mode L, RGB or CMYK.
        profile: ICC.
    """
    transform = _transform(profile, image.mode) if len(profile) <= MAX_PROFILE_BYTES else None
    if transform is None:
        return None
    try:
        return transform.apply(image)
    except (ImageCms.PyCMSError, ValueError, OSError):
        return None


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """CIELab, D50, as TIFF files have it."""
    return _from_lab().apply(image)


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        is_srgb = "sRGB" in (source.profile.profile_description or "")
        if is_srgb or source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        return ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, ValueError, OSError, TypeError):
        return None


@lru_cache(maxsize=1)
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), _srgb(), "LAB", "RGB")


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
