"""A document as a page or as an image, to look at."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models.generation.documents import PromptSegment
from models.images.arrays import array_to_image, tensor_to_image
from models.images.rgb import to_rgb

GIVEN, WRITTEN = "#557799", "#000000"
"""Colours of the text that was given and of the text that was written."""

MARGIN_PX = 16
SPACING_PX = 8
FONT_PX = 16
WIDTH_CHARACTERS = 72

VISIBLE_PX = 128
"""An image whose shorter side is at most half of this is enlarged by a whole number, so that pixels stay square."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Generated document</title>
<style>
body {{ font-family: sans-serif; max-width: 48em; margin: 2em auto; line-height: 1.5; white-space: pre-wrap; }}
img {{ display: block; margin: 0.5em 0; min-width: 8em; max-width: 100%; image-rendering: pixelated; }}
.given {{ color: {given}; }}
.given img {{ opacity: 0.8; }}
.written {{ color: {written}; }}
</style>
<body>{body}</body>
</html>
"""


def to_html(given: Sequence[PromptSegment], written: Sequence[PromptSegment]) -> str:
    """A page of its own, without other files: what was given in blue-grey, then what was written."""
    parts = []
    for name, segments in (("given", given), ("written", written)):
        inside = "".join(
            html.escape(item) if isinstance(item, str) else _image_tag(as_image(item)) for item in segments
        )
        parts.append(f'<div class="{name}">{inside}</div>')
    return PAGE.format(given=GIVEN, written=WRITTEN, body="".join(parts))


def to_image(given: Sequence[PromptSegment], written: Sequence[PromptSegment]) -> Image.Image:
    """All segments below each other in one image: what was given in blue-grey, then what was written in black."""
    font = ImageFont.load_default(FONT_PX)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    blocks: list[tuple[str | Image.Image, str, tuple[int, int]]] = []  # what, its colour, its size (w, h)
    for colour, segments in ((GIVEN, given), (WRITTEN, written)):
        for item in segments:
            if isinstance(item, str):
                block: str | Image.Image = "\n".join(textwrap.wrap(item.strip(), WIDTH_CHARACTERS))
                _, _, right, bottom = measure.multiline_textbbox((0, 0), str(block), font)
                size = (round(right), round(bottom))
            else:
                block = _enlarged(as_image(item))
                size = block.size
            blocks.append((block, colour, size))
    width = max((w for _, _, (w, _) in blocks), default=0)
    height = sum(h + SPACING_PX for _, _, (_, h) in blocks)
    page = Image.new("RGB", (width + 2 * MARGIN_PX, height + 2 * MARGIN_PX), "white")
    draw = ImageDraw.Draw(page)
    y = MARGIN_PX
    for block, colour, (_, h) in blocks:
        if isinstance(block, str):
            draw.multiline_text((MARGIN_PX, y), block, colour, font)
        else:
            page.paste(block, (MARGIN_PX, y))
        y += h + SPACING_PX
    return page


def as_image(image: Image.Image | np.ndarray | Tensor) -> Image.Image:
    """An image in any of the forms that `generate` reads, as the model sees it: RGB, upright, opaque."""
    if isinstance(image, Tensor):
        return tensor_to_image(image)
    return to_rgb(image) if isinstance(image, Image.Image) else array_to_image(image)


def _enlarged(image: Image.Image) -> Image.Image:
    times = max(1, VISIBLE_PX // max(1, min(image.size)))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def _image_tag(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
