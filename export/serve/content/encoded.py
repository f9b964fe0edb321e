"""Images of answers as files to send."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

PREVIEW_SIDE = 128
"""Pixels of the longer side of a preview, at most."""

PREVIEW_QUALITY = 80
"""Of JPEG."""

COMPRESSION = 3
"""Of PNG: half the time of Pillow's usual 6, for a tenth more bytes."""


@dataclass(frozen=True)
class EncodedImage:
    """A whole image as a PNG file."""

    png: bytes
    width: int
    height: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.png).hexdigest()

    @cached_property
    def base64(self) -> str:
        """The file as text."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def data_url(self) -> str:
        """The file as an address that holds it."""
        return f"data:image/png;base64,{self.base64}"

    @property
    def size(self) -> str:
        """As OpenAI writes it: "512x512"."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class EncodedPreview:
    """An image that is still being drawn: a small JPEG file, or a PNG file of its full size."""

    image: bytes
    media_type: str
    step: int
    num_steps: int

    @property
    def base64(self) -> str:
        """The file as text."""
        return base64.b64encode(self.image).decode("ascii")

    @property
    def data_url(self) -> str:
        """The file as an address that holds it."""
        return f"data:{self.media_type};base64,{self.base64}"


def encode_image(image: Image.Image) -> EncodedImage:
    """As PNG: Open WebUI keeps nothing else."""
    return EncodedImage(_file(image, "PNG", compress_level=COMPRESSION), *image.size)


def encode_preview(image: Image.Image, step: int, num_steps: int, *, whole: bool) -> EncodedPreview:
    """A preview.

    Args:
        image: at full size.
        step: how many denoising steps are done.
        num_steps: of how many.
        whole: as PNG, as it is; else a small JPEG.
    """
    if whole:
        return EncodedPreview(_file(image, "PNG", compress_level=COMPRESSION), "image/png", step, num_steps)
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return EncodedPreview(_file(small, "JPEG", quality=PREVIEW_QUALITY), "image/jpeg", step, num_steps)


def _file(image: Image.Image, file_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()
