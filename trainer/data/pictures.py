"""Encoded images to pixels: what may be decoded, and how a photograph becomes a square."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import Image as PILImage

from trainer.data.sources.sample import BrokenSampleError

FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, max_pixels: int) -> PILImage.Image:
    """An RGB picture.

    Args:
        data: a JPEG, PNG or WebP file.
        max_pixels: refuse what declares more, before any pixel is decoded.

    Raises:
        BrokenSampleError: it is none of these, damaged, cut off, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd but can read
            with PILImage.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > max_pixels:
                    raise BrokenSampleError(
                        f"The image declares {picture.width} x {picture.height} pixels; the limit is {max_pixels:,}."
                    )
                return picture.convert("RGB")
    except BrokenSampleError:
        raise
    except PILImage.UnidentifiedImageError as error:
        raise BrokenSampleError(f"The image cannot be decoded: it is no {', '.join(FORMATS)} file.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PILImage.DecompressionBombError) as error:
        raise BrokenSampleError(f"The image cannot be decoded: {error}.") from error


def square(picture: PILImage.Image, size_px: int) -> np.ndarray:
    """The middle square at a size (the paper's CenterCrop): uint8 [size_px, size_px, 3].

    The same steps as `models.MMInterleavedProcessor.encode_image`, so that training sees what inference will.
    """
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))
    return np.array(middle.resize((size_px, size_px), PILImage.Resampling.BICUBIC))
