"""Boxes in text: `(x1,y1)(x2,y2)` in thousandths of the image, 000 to 999 (paper appendix B.2)."""

from __future__ import annotations

import re

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the image's width and height (0 to 1)."""

BOX = re.compile(r"\((\d{3}),(\d{3})\)\((\d{3}),(\d{3})\)")


def read_boxes(text: str) -> list[Box]:
    """The boxes in a text, in order; those without an area are left out."""
    boxes = [tuple(int(number) / 1000 for number in found.groups()) for found in BOX.finditer(text)]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes if x1 < x2 and y1 < y2]


def write_box(box: Box) -> str:
    """A box as the model reads and writes it.

    Raises:
        ValueError: an edge is not a share of the image.
    """
    if not all(0 <= edge <= 1 for edge in box):
        raise ValueError(f"The box is {box}; expected left, top, right, bottom as shares of the image, 0 to 1.")
    x1, y1, x2, y2 = (min(round(edge * 1000), 999) for edge in box)
    return f"({x1:03},{y1:03})({x2:03},{y2:03})"
