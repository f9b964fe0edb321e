"""A document: text and images in reading order, and what is true about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Text:
    """A piece of text; a space between two pieces belongs to the second one."""

    text: str
    loss: bool = True
    """Whether the model learns to write it; False for questions and instructions."""

    ends_turn: bool = False
    """Whether `</s>` follows it: one turn of a chat is over, and more of the document comes."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image; `pixels` is uint8 [h, w, 3], RGB."""

    pixels: np.ndarray
    draw: bool = True
    """Whether the model learns to draw it. The first segment of a document is never drawn (paper B.1)."""

    placed: bool = True
    """Whether the model learns that text goes on with an image here; False for images of questions."""

    target: np.ndarray | None = None
    """What it learns to draw, uint8 [h, w, 3], where that is not `pixels` averaged down."""

    visible: tuple[float, float, float, float] = WHOLE
    """Left, top, right and bottom of `pixels` in the image that it was cropped from, as shares of that."""


Segment = Text | Image


@dataclass(frozen=True, eq=False)
class Document:
    """Segments in reading order."""

    segments: tuple[Segment, ...]
    task: str
    key: str
    """Names the document for ever: world/task/split/index, or source/shard/number."""

    prompt: int
    """The first so many segments are what an evaluation gives; the rest is for the model to make."""

    truth: dict[str, Any]
    """Exact facts for scoring, in plain Python types; the task that made the document says which."""


def prompt_of(document: Document) -> list[Segment]:
    """The segments that an evaluation gives to the model."""
    return list(document.segments[: document.prompt])


def is_drawn(document: Document, segment: int) -> bool:
    """Whether a segment is an image that carries image loss: one to draw, and something stands before it."""
    item = document.segments[segment]
    return isinstance(item, Image) and item.draw and segment > 0
