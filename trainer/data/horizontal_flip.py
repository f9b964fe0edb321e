"""The horizontal flip of a document: its images, the boxes in its text, and the words "left" and "right"."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from models.generation.boxes import BOX
from trainer.data.document import Image, Segment, Text

SIDES = {"left": "right", "right": "left"}
SIDE = re.compile(r"\b(left|right)(?=\b|most\b)", re.IGNORECASE)


def flipped(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """All segments, left and right exchanged."""
    return tuple(
        replace(segment, text=flipped_text(segment.text)) if isinstance(segment, Text) else _flipped_image(segment)
        for segment in segments
    )


def flipped_text(text: str) -> str:
    """Boxes change the sides of the image, and so do the words; 1000 thousandths are its width."""

    def box(found: re.Match[str]) -> str:
        x1, y1, x2, y2 = found.groups()
        return f"({_flipped(x2)},{y1})({_flipped(x1)},{y2})"

    def word(found: re.Match[str]) -> str:
        other = SIDES[found[0].lower()]
        return other.upper() if found[0].isupper() else other.capitalize() if found[0][0].isupper() else other

    return SIDE.sub(word, BOX.sub(box, text))


def _flipped(edge: str) -> str:
    return f"{min(1000 - int(edge), 999):03}"


def _flipped_image(image: Image) -> Image:
    target = None if image.target is None else np.ascontiguousarray(image.target[:, ::-1])
    return replace(image, pixels=np.ascontiguousarray(image.pixels[:, ::-1]), target=target)
