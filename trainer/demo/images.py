"""Pictures inside a page."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image as PILImage


def inline_png(picture: np.ndarray | PILImage.Image) -> str:
    """A picture (uint8 [H, W, 3], or PIL) as a data URI."""
    image = picture if isinstance(picture, PILImage.Image) else PILImage.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def img(picture: np.ndarray | PILImage.Image, alt: str) -> str:
    """The picture as an element."""
    return f'<img src="{inline_png(picture)}" alt="{escape(alt)}">'
