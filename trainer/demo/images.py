"""Images inside a page."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image as PILImage


def inline_png(image: np.ndarray | PILImage.Image) -> str:
    """An image (uint8 [h, w, 3], or PIL) as a data URI."""
    pil = image if isinstance(image, PILImage.Image) else PILImage.fromarray(image)
    file = io.BytesIO()
    pil.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def img(image: np.ndarray | PILImage.Image, alt: str) -> str:
    """The image as an element."""
    return f'<img src="{inline_png(image)}" alt="{escape(alt)}">'
