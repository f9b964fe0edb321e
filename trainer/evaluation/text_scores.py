"""How right a written answer is: captions, numbers and boxes, each a share between 0 and 1.

A model may write down its search first ("top left whale, middle strawberry: 11"), so the last number or box of the
first line is its answer, and the one before it is not. What follows a line break is no answer: a model that did not end
has begun with something else there.
"""

from __future__ import annotations

import re

from models.generation.boxes import Box, read_boxes


def exact_match(answer: str, truth: str) -> float:
    """1 if the words are the same; case, spacing and a full stop at the end do not count."""
    return float(_normalised(answer) == _normalised(truth))


def number_match(answer: str, truth: str) -> float:
    """1 if the last number in the answer is the last in the truth; other words do not count, leading zeros do."""
    said, true = last_number(answer), last_number(truth)
    return float(said is not None and said == true)


def search_match(answer: str, truth: str) -> float:
    """1 if what is written before the answer, up to the last colon of the first line, is the same as in the truth: the
    search in writing "top left whale, middle strawberry" of "top left whale, middle strawberry: 11"."""
    said, true = (_first_line(text).rpartition(":")[0] for text in (answer, truth))
    return exact_match(said, true)


def last_number(text: str) -> str | None:
    """The digits of the last number in the first line of a text, None if there is none."""
    numbers = re.findall(r"\d+", _first_line(text))
    return numbers[-1] if numbers else None


def read_box(text: str) -> Box | None:
    """The last box in the first line of a text, None if there is none."""
    boxes = read_boxes(_first_line(text))
    return boxes[-1] if boxes else None


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _normalised(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(". ")
