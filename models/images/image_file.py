"""Image files, or their bytes, to RGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from models.images.rgb import DECODING_ERRORS, MAX_PIXELS, UnreadableImageError, check_size, to_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is read: the formats of the web. Pillow's other decoders are not offered a stranger's file."""

MAX_FILE_BYTES = 64 << 20
"""A larger file is refused unread."""


def open_image(
    source: bytes | str | Path, *, upright: bool = True, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> Image.Image:
    """An image as a person sees it: RGB, upright, on white where it is transparent; of an animation, the first frame.

    What the header declares is checked before any pixel is decoded, and a JPEG that is much larger than needed is
    decoded at a fraction of its size.

    Args:
        source: a JPEG, PNG, WebP or GIF file: its bytes, or its path.
        upright: turn it as its EXIF orientation says; False: leave it as it is stored.
        max_pixels: more are refused.
        min_side: the pixels that are needed on the shorter side: a larger image may come out smaller. None: all.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImageError: it is none of these formats, empty, damaged, cut off or too large. A ValueError.
    """
    if not isinstance(source, bytes):
        try:
            return open_image(_read(Path(source)), upright=upright, max_pixels=max_pixels, min_side=min_side)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{str(source)!r} cannot be read as an image. {error}") from error
    with opened(source, max_pixels) as image:
        # Of other formats than JPEG, nothing comes of it.
        drafted = None if min_side is None else image.draft(None, (min_side, min_side))
        extent = None if drafted is None else drafted[1][2:]
        return to_rgb(image, upright=upright, max_pixels=max_pixels, min_side=min_side, extent=extent)


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """A PIL image as it is stored, of which nothing but the header has been read.

    Raises:
        UnreadableImageError: as for `open_image`; also for what goes wrong while it is decoded in the `with` block.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            yield image
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError as error:
        names = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UnreadableImageError(f"The image cannot be decoded: it is no {names} file. Save it as PNG.") from error
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"The image cannot be decoded: {error!r}. Expected a whole image.") from error


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {str(path)!r}. Expected a file as JPEG, PNG, WebP or GIF.")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"It has more than {MAX_FILE_BYTES:,} bytes. Give a smaller image.")
    return data
