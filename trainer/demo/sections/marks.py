"""Marks on answers: right or wrong, and boxes on an image."""

from __future__ import annotations

from collections.abc import Sequence

from models.generation.boxes import Box


def mark(right: bool) -> str:
    """✓ or ✗, with a word for those who hear the page."""
    kind, sign = ("right", "✓") if right else ("wrong", "✗")
    return f'<span class="mark {kind}" role="img" aria-label="{kind}">{sign}</span>'


def box_rectangles(boxes: Sequence[Box | None]) -> str:
    """A true box and one that was written, in units of the image; None: there is none."""
    return "".join(
        f'<rect class="{kind}" x="{box[0]}" y="{box[1]}" width="{box[2] - box[0]}" height="{box[3] - box[1]}"/>'
        for kind, box in zip(("true", "said"), boxes, strict=True)
        if box is not None
    )
