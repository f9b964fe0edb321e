"""Boxes in answers, and whether they are where they should be (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

import re
from collections.abc import Sequence

Corners = tuple[float, float, float, float]
"""Left, upper, right and lower edge."""

IOU_NEEDED = 0.5
"""A box is right from here on, this value included."""

SCALE = 1000
"""Boxes are written in thousandths of width and height (paper, section 3.3)."""

_NUMBER = r"\s*(\d{1,4})\s*"
_BOX = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)", re.ASCII)


def first_box(answer: str) -> Corners | None:
    """The first box in an answer as shares of width and height, or None if there is none: `(012,034)(056,078)`, where
    spaces may stand anywhere and numbers have one to four digits."""
    found = _BOX.search(answer)
    if found is None:
        return None
    left, upper, right, lower = (int(digits) / SCALE for digits in found.groups())
    return left, upper, right, lower


def iou(one: Corners, other: Corners) -> float:
    """Area of the intersection over that of the union; 0 for a box without area, or with edges in the wrong order."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    sizes = [(box[2] - box[0], box[3] - box[1]) for box in (one, other)]
    if not (width > 0 and height > 0 and all(w > 0 and h > 0 for w, h in sizes)):
        return 0.0
    intersection = width * height
    return intersection / (sum(w * h for w, h in sizes) - intersection)


def box_iou(answer: str, truth_xywh: Sequence[float], width: int, height: int) -> float | None:
    """IoU, in pixels, of the first box in an answer with the true one; None if the answer has no box.

    Args:
        answer: with a box in thousandths.
        truth_xywh: left and upper edge, width and height, in pixels, as COCO has them.
        width, height: of the image, in pixels.
    """
    box = first_box(answer)
    if box is None:
        return None
    left, upper, box_width, box_height = truth_xywh
    predicted = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return iou(predicted, (left, upper, left + box_width, upper + box_height))
