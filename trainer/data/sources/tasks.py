"""Rows of the fine-tuning tasks as segments of `rows`, with the words that the paper and its prompts put around them.

The wordings are those of `models.generation.prompts`, so that `generate(..., task=...)` asks as training did.

| row | is |
|---|---|
| `image`, `question`, `answer` | a question about an image (`vqa`) |
| `image`, `expression`, `box` or `bbox`, perhaps `width`, `height` and `as_stored` | a thing in an image (`rec`) |
| `label_map`, `caption`, `image` | an image with a map of its classes (`seg2img`) |
| `story` of `{"text": ..., "image": ...}`, perhaps `"strip": true` | sentences, each before its image (`story`) |
| `conversations` of `{"from": "human" or "gpt", "value": ...}`, `image` one name or several | a chat (`instruct`) |

Boxes are of the upright image, as browsers have shown it since 2020 and tools for annotation do, unless `width` and
`height` are those of the stored one alone. With `"as_stored": true`, the image is not turned by its EXIF orientation.
Neither are a label map and its image, whose pixels lie on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from models.generation.boxes import write_box
from models.generation.prompts import ASSISTANT, PROMPTS, USER
from trainer.data.sources.sample import BrokenSampleError, require_flag, require_number, require_text

Segments = list[dict[str, Any]]
CAPTION_QUESTION = "Provide a one-sentence caption for the provided image."
"""The question that a caption answers (paper Table 17, after fine-tuning)."""

PLACE = "<image>"
"""Where an image stands in a turn of a chat."""


def task_segments(row: Mapping[str, Any]) -> Segments | None:
    """The segments of a row of a task; None if it is of none. Raises BrokenSampleError."""
    if "conversations" in row:
        return _chat(row)
    if "story" in row:
        return [segment for part in row["story"] for segment in _told(part)]
    if "question" in row:
        question = require_text(row["question"], "The question")
        return [*_asked("question", _seen_of(row), question), _answer(_written(row["answer"]))]
    if "expression" in row:
        expression = require_text(row["expression"], "The expression")
        return [*_asked("grounding", _seen_of(row), expression), _answer(write_box(_box(row)))]
    if "label_map" in row:
        caption_text = require_text(row["caption"], "The caption")
        first, caption = _asked("label_map", _seen(row["label_map"]), caption_text)
        return [first | {"label_map": True, "as_stored": True}, caption, _drawn(row["image"]) | {"as_stored": True}]
    return None


def _asked(task: str, image: dict[str, Any], text: str) -> Segments:
    """A task's prompt, as an evaluation gives it."""
    stand_in = np.zeros((1, 1, 3), dtype=np.uint8)
    pieces = PROMPTS[task].fill([stand_in, text.strip()])
    return [_given(piece) if isinstance(piece, str) else image for piece in pieces]


def _told(part: Mapping[str, Any]) -> Segments:
    """A sentence of a story and its image."""
    is_strip = part.get("strip") is not None and require_flag(part["strip"], "A story's strip")
    return [_given(require_text(part["text"], "A sentence").strip()), _drawn(part["image"]) | {"strip": is_strip}]


def _given(text: str) -> dict[str, Any]:
    return {"text": text, "loss": False}


def _written(answer: Any) -> str:
    """An answer as a text; numbers are written as they are."""
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        require_number(answer, "The answer")
        return str(answer)
    return require_text(answer, "The answer")


def _answer(text: str, *, ends_turn: bool = False) -> dict[str, Any]:
    if not text.strip():
        raise BrokenSampleError("The answer is empty.")
    return {"text": text.strip(), "loss": True, "ends_turn": ends_turn}


def _seen(image: Any) -> dict[str, Any]:
    return {"image": image, "draw": False}


def _seen_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The image of a row that may tell which way it lies."""
    seen = _seen(row["image"])
    size = _size_of(row)
    if size is not None:
        seen["size"] = list(size)
    is_as_stored = "as_stored" in row and require_flag(row["as_stored"], "The row's as_stored")
    return seen | {"as_stored": True} if is_as_stored else seen


def _size_of(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height of the image in pixels, where the row tells them."""
    if "width" not in row and "height" not in row:
        return None
    width, height = (require_number(row.get(side), f"The image's {side}") for side in ("width", "height"))
    if min(width, height) < 1:
        raise BrokenSampleError(f"The image has {width:g} x {height:g} pixels; expected 1 or more.")
    return width, height


def _drawn(image: Any) -> dict[str, Any]:
    return {"image": image, "draw": True}


def _box(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Corners as shares of the image: `box` has corners, `bbox` a corner and a size, as COCO writes them."""
    numbers = row["box"] if "box" in row else row["bbox"]
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise BrokenSampleError(f"The box is {numbers!r:.80}; expected a list of four numbers.")
    x1, y1, x2, y2 = (require_number(number, "A number of the box") for number in numbers)
    if "box" not in row:
        x2, y2 = x1 + x2, y1 + y2
    given = [x1, y1, x2, y2]
    size = _size_of(row)
    if size is not None:
        width, height = size
        x1, y1, x2, y2 = x1 / width, y1 / height, x2 / width, y2 / height
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise BrokenSampleError(
            f"The box has the corners {given}; expected shares of the image from 0 to 1, or pixels beside its width "
            "and height, left before right and top before bottom."
        )
    return x1, y1, x2, y2


def _chat(row: Mapping[str, Any]) -> Segments:
    images = row.get("image") or row.get("images") or []
    names = iter(images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images])
    turns = row["conversations"]
    segments: Segments = []
    for number, turn in enumerate(turns):
        wanted = ("human", "gpt")[number % 2]
        value = require_text(turn["value"], "A turn")
        if turn["from"] != wanted:
            raise BrokenSampleError(
                f"Turn {number} is from {turn['from']!r:.40}; expected {wanted!r}: they take turns."
            )
        if wanted == "human":
            segments += _user_turn(value, names, is_first=number == 0)
        else:
            segments += _assistant_turn(value, names, is_last=number == len(turns) - 1)
    if len(turns) < 2 or len(turns) % 2:
        raise BrokenSampleError(f"The chat has {len(turns)} turns; expected a question and an answer, or more of both.")
    if next(names, None) is not None:
        raise BrokenSampleError(f"The chat has more images than places for them ({PLACE}).")
    return segments


def _user_turn(value: str, names: Iterator[Any], *, is_first: bool) -> Segments:
    """All of it is given."""
    lead, *others = value.split(PLACE)
    text = f"{'' if is_first else ' '}{USER} {lead.strip()}".rstrip()
    segments: Segments = []
    for piece in others:
        segments += ([_given(text)] if text else []) + [_seen(_next(names))]
        text = f" {piece.strip()}" if piece.strip() else ""
    return [*segments, _given(text + ASSISTANT)]


def _assistant_turn(value: str, names: Iterator[Any], *, is_last: bool) -> Segments:
    """All of it is learned, images too."""
    segments: Segments = []
    pieces = value.split(PLACE)
    for number, piece in enumerate(pieces):
        if piece.strip():
            segments.append(_answer(piece, ends_turn=number == len(pieces) - 1 and not is_last))
        if number < len(pieces) - 1:
            segments.append(_drawn(_next(names)))
    if not segments:
        raise BrokenSampleError("A turn of the assistant is empty.")
    return segments


def _next(names: Iterator[Any]) -> Any:
    name = next(names, None)
    if name is None:
        raise BrokenSampleError(f"The chat has more places for images ({PLACE}) than images.")
    return name
