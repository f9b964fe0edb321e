"""An image as a person sees it: RGB, upright, opaque.

* Turned as its EXIF orientation says, as browsers, transformers and diffusers do.
* Transparent pixels show a white background, not the colour that is stored beneath them.
* Sixteen bits of grey become eight. Floats are shares of white.
* Colours with an ICC profile become sRGB.
* Of an animation, the first frame.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from models.images.color_profile import lab_to_srgb, to_srgb

MAX_PIXELS = 64_000_000
"""An image of more is refused before it is decoded."""

BACKGROUND = (255, 255, 255)
"""What is seen through transparent pixels."""

HALF_STEP = 0.5 / 255
"""Floats may be so far outside of 0 to 1, which is nothing in eight bits."""

DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    Warning,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files, depending on the format and on where the damage is; `Warning`, where warnings
are errors."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what makes the image upright (EXIF 2.3, tag 0x0112)."""

_BAND_PIXELS = 1 << 20
"""Pixels of a large image that are converted at a time, to keep its memory small."""


class UnreadableImageError(ValueError):
    """An image that cannot be read, or not without guessing; the message says why."""


def to_rgb(
    image: Image.Image,
    *,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """A PIL image of any mode as RGB, as a person sees it. The given image stays as it is.

    An image that was turned by hand has to lose its EXIF orientation, as `PIL.ImageOps.exif_transpose` does it;
    otherwise it would be turned again.

    Args:
        image: perhaps not yet decoded.
        upright: turn it as its EXIF orientation says; False: leave it as it is stored.
        max_pixels: more are refused.
        min_side: a larger image may come out smaller, with this many pixels or more on its shorter side. None: it keeps
            its size.
        extent: (width, height) of what the image shows, in its pixels, where its last column or row is only a part of a
            pixel. None: all are whole.

    Raises:
        UnreadableImageError: it is empty, too large, damaged, or has numbers of which nobody knows which one is white.
    """
    check_size(image.size, max_pixels)
    try:
        image.load()
        orientation = stored_orientation(image) if upright else 1
        file_format = image.format
        factor = 1 if min_side is None else max(1, min(image.size) // min_side)
        rgb = _opaque(image, file_format) if factor == 1 else _reduced(image, file_format, factor)
        width, height = extent or image.size
        rgb = _of_whole_pixels(rgb, width / factor, height / factor)
    except UnreadableImageError:
        raise
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"The image cannot be decoded: {error!r}. Expected a whole image.") from error
    rgb = rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb
    rgb.info.clear()  # its orientation and profile are applied; nothing is to be applied twice
    return rgb


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise UnreadableImageError for an image (width, height) that is empty or too large."""
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImageError(f"The image has {width} x {height} pixels; expected at least 1 x 1.")
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"The image has {width} x {height} pixels; the limit is {max_pixels:,} in all. Make it smaller."
        )


def stored_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1, upright, where there is none or it is damaged."""
    try:
        orientation = image.getexif().get(Base.Orientation, 1)
    except DECODING_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _reduced(image: Image.Image, file_format: str | None, factor: int) -> Image.Image:
    """RGB of means of factor x factor pixels, with little memory besides the image's own."""
    width, height = image.size
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        small.paste(_opaque(band, file_format).reduce(factor), (0, top // factor))
    return small


def _of_whole_pixels(image: Image.Image, width: float, height: float) -> Image.Image:
    """An image whose last column and row reach only to this width and height, as one of whole pixels: without this, its
    right and lower parts would be seen a little too far left and up."""
    size = (max(1, round(width)), max(1, round(height)))
    if (width, height) == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, width, height))


def _opaque(image: Image.Image, file_format: str | None) -> Image.Image:
    """RGB, as it is stored, without what is hidden: a new image."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        image, alpha = _from_16_bits(image)
    elif image.mode == "I":
        raise UnreadableImageError(
            "The image has mode 'I', 32-bit integers, which do not say which number is white. Give it as mode 'L' "
            "(255 is white), 'I;16' (65535 is white) or 'F' (1.0 is white)."
        )
    elif image.mode == "F":
        image = _from_floats(image)
    elif image.mode == "LAB":
        image, profile = lab_to_srgb(image), None
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LA":
        alpha, image = image.getchannel("A"), image.getchannel("L")
    elif image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        alpha, image = with_alpha.getchannel("A"), with_alpha.convert("RGB")
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    rgb = to_srgb(image, profile) if isinstance(profile, bytes) else None
    if rgb is None:
        rgb = image.convert("RGB")
    if alpha is None:
        return rgb
    seen = Image.new("RGB", image.size, BACKGROUND)
    seen.paste(rgb, mask=alpha)
    return seen


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of sixteen bits as one of eight, and which of it is opaque, if any is not."""
    values = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
    grey = Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())  # NaN, if any is
    if not (low >= -HALF_STEP and high <= 1 + HALF_STEP):
        raise UnreadableImageError(
            f"The image has mode 'F' with values from {low:g} to {high:g}; expected 0 to 1, where 1 is white. Divide "
            "it by the value of white."
        )
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
