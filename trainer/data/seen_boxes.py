"""Boxes of what an image shows, when a crop of it is seen."""

from __future__ import annotations

import re
from dataclasses import replace

from models.generation.boxes import BOX, Box, write_box
from trainer.data.document import WHOLE, Image, Segment

MIN_SEEN = 0.5
"""A thing is in view when at least so much of its box is; with less, a sentence about it asks for what is not there."""


def in_view(segments: tuple[Segment, ...]) -> tuple[Segment, ...] | None:
    """The boxes in the texts as shares of what is seen of the image before them; None if one is not in view."""
    visible, seen = WHOLE, []
    for segment in segments:
        if isinstance(segment, Image):
            visible = segment.visible
        elif visible != WHOLE:
            text = _moved(segment.text, visible)
            if text is None:
                return None
            segment = replace(segment, text=text)
        seen.append(segment)
    return tuple(seen)


def _moved(text: str, visible: Box) -> str | None:
    left, top, right, bottom = visible
    is_in_view = True

    def box(found: re.Match[str]) -> str:
        nonlocal is_in_view
        x1, y1, x2, y2 = (int(edge) / 1000 for edge in found.groups())
        inner = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        seen_width, seen_height = inner[2] - inner[0], inner[3] - inner[1]
        # A box without an area, as a thin one is in thousandths, is in view or it is not.
        if min(seen_width, seen_height) < 0 or seen_width * seen_height < MIN_SEEN * (x2 - x1) * (y2 - y1):
            is_in_view = False
            return found[0]
        width, height = right - left, bottom - top
        shares = ((inner[0] - left) / width, (inner[1] - top) / height)
        return write_box((*shares, (inner[2] - left) / width, (inner[3] - top) / height))

    moved = BOX.sub(box, text)
    return moved if is_in_view else None
