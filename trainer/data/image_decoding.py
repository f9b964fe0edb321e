"""Encoded images to pixels: what may be decoded, and how a photograph becomes a square."""

from __future__ import annotations

import io
import math
import warnings
from functools import lru_cache

import numpy as np
from PIL import Image as PILImage

from models.images.fit import Fit, fitted, visible_box
from models.images.image_file import open_image, opened
from models.images.rgb import UnreadableImageError, stored_orientation
from trainer.data.sources.pickles import NPY_MAGIC, read_npy_header
from trainer.data.sources.sample import BrokenSampleError


def decode(
    data: bytes,
    max_pixels: int,
    *,
    label_map: bool = False,
    moment: float | None = None,
    as_stored: bool = False,
    described_size: tuple[int, int] | None = None,
    min_side: int | None = None,
) -> PILImage.Image:
    """An RGB image as a person sees it; see `models.images.image_file.open_image`.

    Args:
        data: a JPEG, PNG, WebP or GIF file.
        max_pixels: refuse what declares more, before any pixel is decoded.
        label_map: an image of one channel holds numbers of classes, which get a colour each (`class_colours`).
        moment: from 0 to below 1: the file is a strip of square frames, or an array [frames, h, w, 3] with values to
            255 as a .npy file, and the frame there is the image.
        as_stored: the image is not turned by its EXIF orientation, as a label map never is.
        described_size: (width, height) of the image that a sample has boxes of: where it is the stored size and not the
            turned one, the image is taken as it is stored.
        min_side: the pixels that are needed on the shorter side; a larger image may come out smaller.

    Raises:
        BrokenSampleError: it is none of these, damaged, cut off, or too large.
    """
    if moment is not None and data.startswith(NPY_MAGIC):
        return _frame(data, max_pixels, moment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd but can read
            if label_map:
                return _label_map(data, max_pixels)
            if described_size is not None:
                as_stored = as_stored or _describes_stored(data, max_pixels, described_size)
            if moment is None:
                return open_image(data, upright=not as_stored, max_pixels=max_pixels, min_side=min_side)
            return _cut_out(open_image(data, upright=not as_stored, max_pixels=max_pixels), moment)
    except UnreadableImageError as error:
        raise BrokenSampleError(str(error)) from error


def _label_map(data: bytes, max_pixels: int) -> PILImage.Image:
    """Its numbers as colours; colours as they are stored, whatever profile or transparency they have."""
    with opened(data, max_pixels) as image:
        if image.mode in ("L", "I", "I;16"):
            return PILImage.fromarray(class_colours()[np.asarray(image).astype(np.int64) % 256])
        return image.convert("RGB")


def _describes_stored(data: bytes, max_pixels: int, described_size: tuple[int, int]) -> bool:
    """Whether a size is that of the image as it is stored, and not of the upright one."""
    with opened(data, max_pixels) as image:
        is_on_its_side = stored_orientation(image) in (5, 6, 7, 8)
        return is_on_its_side and image.size == described_size != (image.height, image.width)


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
    low, high = frame.min(), frame.max()  # NaN, if any is
    if not (low >= 0 and high <= 255) or (dtype.kind == "f" and high <= 1):
        raise BrokenSampleError(f"The array has values from {low} to {high}; expected 0 to 255, where 255 is white.")
    return PILImage.fromarray(frame.astype(np.uint8))


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
    fit: Fit = "crop",
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
    resampling = PILImage.Resampling.NEAREST if label_map else PILImage.Resampling.BICUBIC
    return fitted(image, (image_side, image_side), fit, resampling)


def visible_part(image: PILImage.Image, fit: Fit) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square that `square` makes of an image, as shares of the image."""
    left, top, right, bottom = visible_box(image.size, (1, 1), fit)
    return left / image.width, top / image.height, right / image.width, bottom / image.height
