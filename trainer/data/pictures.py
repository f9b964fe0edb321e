"""Encoded images to pixels: what may be decoded, and how a photograph becomes a square."""

from __future__ import annotations

import io
import struct
import warnings
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from trainer.data.sources.sample import BrokenSampleError

FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, max_pixels: int, *, label_map: bool = False) -> PILImage.Image:
    """An RGB picture.

    Args:
        data: a JPEG, PNG or WebP file.
        max_pixels: refuse what declares more, before any pixel is decoded.
        label_map: a picture of one channel holds numbers of classes, which get a colour each (`class_colours`).

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
                if label_map and picture.mode in ("L", "I", "I;16"):
                    return PILImage.fromarray(class_colours()[np.asarray(picture).astype(np.int64) % 256])
                return picture.convert("RGB")
    except BrokenSampleError:
        raise
    except PILImage.UnidentifiedImageError as error:
        raise BrokenSampleError(f"The image cannot be decoded: it is no {', '.join(FORMATS)} file.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PILImage.DecompressionBombError) as error:
        raise BrokenSampleError(f"The image cannot be decoded: {error}.") from error


@lru_cache(maxsize=1)
def class_colours() -> np.ndarray:
    """A colour for each of 256 classes, uint8 [256, 3]: Pascal VOC's, the bits of a number dealt out to red, green and
    blue, the lowest to the brightest."""
    numbers = np.arange(256)
    channels = [
        sum((numbers >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8)


def square(
    picture: PILImage.Image,
    size_px: int,
    *,
    fit: Literal["crop", "squeeze"] = "crop",
    label_map: bool = False,
) -> np.ndarray:
    """The middle square at a size (the paper's CenterCrop): uint8 [size_px, size_px, 3].

    The same steps as `models.MMInterleavedProcessor.encode_image`, so that training sees what inference will.

    Args:
        picture: RGB.
        size_px: of the square.
        fit: "squeeze" takes all of the picture instead.
        label_map: colours are not mixed.
    """
    if fit == "crop":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    sampling = PILImage.Resampling.NEAREST if label_map else PILImage.Resampling.BICUBIC
    return np.array(picture.resize((size_px, size_px), sampling))
