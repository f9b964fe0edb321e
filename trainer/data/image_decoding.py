"""Encoded images to pixels: what may be decoded, and how a photograph becomes a square."""

from __future__ import annotations

import io
import math
import struct
import warnings
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from trainer.data.document import WHOLE
from trainer.data.sources.pickles import NPY_MAGIC, read_npy_header
from trainer.data.sources.sample import BrokenSampleError

FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, max_pixels: int, *, label_map: bool = False, moment: float | None = None) -> PILImage.Image:
    """An RGB image.

    Args:
        data: a JPEG, PNG or WebP file.
        max_pixels: refuse what declares more, before any pixel is decoded.
        label_map: an image of one channel holds numbers of classes, which get a colour each (`class_colours`).
        moment: from 0 to below 1: the file is a strip of square frames, or an array [frames, h, w, 3] as a .npy file,
            and the frame there is the image.

    Raises:
        BrokenSampleError: it is none of these, damaged, cut off, or too large.
    """
    if moment is not None and data.startswith(NPY_MAGIC):
        return _frame(data, max_pixels, moment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd but can read
            with PILImage.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise BrokenSampleError(
                        f"The image declares {image.width} x {image.height} pixels; the limit is {max_pixels:,}."
                    )
                if label_map and image.mode in ("L", "I", "I;16"):
                    return PILImage.fromarray(class_colours()[np.asarray(image).astype(np.int64) % 256])
                return image.convert("RGB") if moment is None else _cut_out(image, moment).convert("RGB")
    except BrokenSampleError:
        raise
    except PILImage.UnidentifiedImageError as error:
        raise BrokenSampleError(f"The image cannot be decoded: it is no {', '.join(FORMATS)} file.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PILImage.DecompressionBombError) as error:
        raise BrokenSampleError(f"The image cannot be decoded: {error}.") from error


def _cut_out(strip: PILImage.Image, moment: float) -> PILImage.Image:
    """One of the squares that stand above each other, or side by side."""
    side = min(strip.size)
    start = int(moment * (max(strip.size) // side)) * side
    left, top = (0, start) if strip.height > strip.width else (start, 0)
    return strip.crop((left, top, left + side, top + side))


def _frame(data: bytes, max_pixels: int, moment: float) -> PILImage.Image:
    """One frame of an array. Raises BrokenSampleError."""
    file = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = read_npy_header(file)
    except ValueError as error:
        raise BrokenSampleError(f"The array cannot be read: {error}.") from error
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or is_fortran or dtype.kind not in "uif":
        raise BrokenSampleError(f"The array is {dtype} {list(shape)}; expected numbers [frames, h, w, 3].")
    num_values = math.prod(shape[1:])
    if num_values // 3 > max_pixels:
        raise BrokenSampleError(f"The array declares {shape[2]} x {shape[1]} pixels; the limit is {max_pixels:,}.")
    start = file.tell() + int(moment * shape[0]) * num_values * dtype.itemsize
    if len(data) < file.tell() + math.prod(shape) * dtype.itemsize:
        raise BrokenSampleError(f"The array ends before the last of its {shape[0]} frames.")
    frame = np.frombuffer(data, dtype, num_values, start).reshape(shape[1:])
    return PILImage.fromarray(np.clip(np.nan_to_num(frame), 0, 255).astype(np.uint8))


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
    image: PILImage.Image,
    image_side: int,
    *,
    fit: Literal["crop", "squeeze"] = "crop",
    label_map: bool = False,
) -> np.ndarray:
    """The middle square at a size (the paper's CenterCrop): uint8 [image_side, image_side, 3].

    The same steps as `models.MMInterleavedProcessor.encode_image`, so that training sees what inference will.

    Args:
        image: RGB.
        image_side: of the square.
        fit: "squeeze" takes all of the image instead.
        label_map: colours are not mixed.
    """
    if fit == "crop":
        image = image.crop(_middle(image))
    sampling = PILImage.Resampling.NEAREST if label_map else PILImage.Resampling.BICUBIC
    return np.array(image.resize((image_side, image_side), sampling))


def visible_part(image: PILImage.Image, fit: Literal["crop", "squeeze"]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square that `square` makes of an image, as shares of the image."""
    if fit == "squeeze" or image.width == image.height:
        return WHOLE
    left, top, right, bottom = _middle(image)
    return left / image.width, top / image.height, right / image.width, bottom / image.height


def _middle(image: PILImage.Image) -> tuple[int, int, int, int]:
    """The largest square in the centre, in pixels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side
