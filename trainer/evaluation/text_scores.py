"""How right a written answer is: captions, numbers and boxes, each a share between 0 and 1."""

from __future__ import annotations

import re

from models.generation.boxes import Box, read_boxes


def exact_match(answer: str, truth: str) -> float:
    """1 if the words are the same; case, spacing and a full stop at the end do not count."""
    return float(_normalised(answer) == _normalised(truth))


def number_match(answer: str, truth: str) -> float:
    """1 if the first number in the answer is the first in the truth; other words do not count, leading zeros do."""
    said, true = (re.search(r"\d+", text) for text in (answer, truth))
    return float(said is not None and true is not None and said.group() == true.group())


def read_box(text: str) -> Box | None:
    """The first box that a text holds, None if there is none."""
    boxes = read_boxes(text)
    return boxes[0] if boxes else None


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def _normalised(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(". ")
