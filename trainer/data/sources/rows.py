"""What a row of a table of documents means: MMC4, OBELICS, image and caption, our own segments, or a task's sample.

| row | is |
|---|---|
| `text_list`, `image_info` of `image_name`, `matched_text_index`, `matched_sim` | MMC4 |
| `texts`, `images`: equally long, at each place either a text or an image | OBELICS |
| `image`, and `caption` or `text` | a pair |
| `segments` of `{"text": ...}` and `{"image": ...}` | a document in reading order |

A text with `"loss": false` is given, not learned, and stands as it is written; one with `"loss": true` is learned, and
`"ends_turn": true` puts `</s>` behind it. An image with `"draw": false` is given; `"label_map": true` says that its
values are classes; `"strip": true` that it holds square frames of a film, of which any is the image;
`"as_stored": true` that it is not turned by its EXIF orientation, as all others are; `"size": [width, height]` tells
which size its boxes are told in: where that is the stored size and not the turned one, it is taken as it is stored.
With any of these marks, all images have to be there. `sources.tasks` has shorter rows for tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.sources.sample import BrokenSampleError, Marks, require_flag, require_number, require_text
from trainer.data.sources.tasks import task_segments

StoredAt = tuple[str, int, int]
"""File, relative to the manifest, or `IN_THE_TABLE`; first byte; number of bytes."""

IN_THE_TABLE = ""
"""In the place of a file: the table that the row stands in, and the byte is one of all bytes in its rows."""

FindImage = Callable[[Any], StoredAt | None]
"""What a row says about an image (mostly a name) to where it is stored; None if it is not there."""


@dataclass
class Record:
    """A document as the manifest keeps it."""

    texts: list[str]
    images: list[tuple[StoredAt, int, float | None]]
    """Where it is stored, its text (`StoredImage.text`), and its similarity."""

    fixed_order: bool
    num_missing: int
    """Images that the document names but nobody has: web links die."""

    marks: Marks = field(default_factory=Marks)


def read_row(row: Any, find_image: FindImage) -> Record:
    """A row of any of the known kinds; a name whose value is null, as in tables with a column for each, is not there.

    Raises:
        BrokenSampleError: it is none of them, or damaged.
    """
    if not isinstance(row, Mapping):
        raise BrokenSampleError(f"The row is a {type(row).__name__}; expected an object.")
    row = _filled(row)
    try:
        if "text_list" in row:
            return _mmc4(row, find_image)
        if (segments := task_segments(row)) is not None:
            return _segments({"segments": segments}, find_image)
        if "segments" in row:
            return _segments(row, find_image)
        if "texts" in row and "images" in row:
            return _obelics(row, find_image)
        if "image" in row and ("caption" in row or "text" in row):
            return _pair(row, find_image)
    except BrokenSampleError:
        raise
    except Exception as error:  # a row may hold anything, and one that is odd ends no index
        raise BrokenSampleError(f"The row has an unexpected form: {type(error).__name__}: {error}.") from error
    raise BrokenSampleError(
        f"The row has the keys {sorted(map(str, row))[:8]}; expected text_list and image_info, texts and images, "
        "segments, image and caption, or the keys of a task: question, expression, label_map, story or conversations."
    )


def _filled(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _Builder:
    def __init__(self, find_image: FindImage) -> None:
        self.texts: list[str] = []
        self.images: list[tuple[StoredAt, int, float | None]] = []
        self.num_missing = 0
        self._find = find_image

    def add_text(self, text: Any) -> None:
        self.texts.append(" ".join(require_text(text, "A text").split()))

    def add_text_as_it_is(self, text: Any) -> None:
        self.texts.append(require_text(text, "A text"))

    def add_image(self, image: Any, text: int, similarity: float | None = None) -> None:
        at = self._find(image)
        if at is None:
            self.num_missing += 1
        else:
            self.images.append((at, text, similarity))

    def record(self, *, fixed_order: bool) -> Record:
        return Record(self.texts, self.images, fixed_order, self.num_missing)


def _mmc4(row: Mapping[str, Any], find_image: FindImage) -> Record:
    builder = _Builder(find_image)
    for text in row["text_list"]:
        builder.add_text(text)
    images = sorted(row["image_info"], key=lambda image: image["matched_text_index"])  # stable
    for image in images:
        text = require_number(image["matched_text_index"], "An image's matched_text_index")
        if not (text.is_integer() and 0 <= text < len(builder.texts)):
            raise BrokenSampleError(f"An image belongs to text {text:g}; there are {len(builder.texts)}.")
        similarity = require_number(image["matched_sim"], "An image's matched_sim")
        builder.add_image(image["image_name"], int(text), similarity)
    return builder.record(fixed_order=False)


def _obelics(row: Mapping[str, Any], find_image: FindImage) -> Record:
    builder = _Builder(find_image)
    for text, image in zip(row["texts"], row["images"], strict=True):
        if text is not None and image is not None:
            raise BrokenSampleError("A place has a text and an image; expected one of them.")
        if text is not None:
            builder.add_text(text)
        if image is not None:
            builder.add_image(image, len(builder.texts))
    return builder.record(fixed_order=True)


def _segments(row: Mapping[str, Any], find_image: FindImage) -> Record:
    builder = _Builder(find_image)
    given_texts, turn_ends, given_images, label_maps, strips = [], [], [], [], []
    as_stored: list[int] = []
    sizes: list[tuple[int, int, int]] = []
    missing = []
    for segment in map(_filled, row["segments"]):
        if "text" in segment and "image" in segment:
            raise BrokenSampleError("A segment has a text and an image; expected one of them.")
        if "text" not in segment:
            given_images += [len(builder.images)] if not _flag(segment, "draw", default=True) else []
            label_maps += [len(builder.images)] if _flag(segment, "label_map") else []
            strips += [len(builder.images)] if _flag(segment, "strip") else []
            as_stored += [len(builder.images)] if _flag(segment, "as_stored") else []
            sizes += [(len(builder.images), *_size(segment["size"]))] if "size" in segment else []
            before = builder.num_missing
            builder.add_image(segment["image"], len(builder.texts))
            missing += [segment["image"]] if builder.num_missing > before else []
            continue
        turn_ends += [len(builder.texts)] if _flag(segment, "ends_turn") else []
        given_texts += [len(builder.texts)] if not _flag(segment, "loss", default=True) else []
        if "loss" in segment:
            builder.add_text_as_it_is(segment["text"])
        else:
            builder.add_text(segment["text"])
    record = builder.record(fixed_order=True)
    record.marks = Marks(
        given_texts=tuple(given_texts),
        turn_ends=tuple(turn_ends),
        given_images=tuple(given_images),
        label_maps=tuple(label_maps),
        strips=tuple(strips),
        as_stored=tuple(as_stored),
        described_sizes=tuple(sizes),
    )
    if missing and record.marks != Marks():
        raise BrokenSampleError(_not_there(missing[0]))
    return record


def _size(size: Any) -> tuple[int, int]:
    width, height = (int(require_number(side, "A side of the image")) for side in size)
    return width, height


def _flag(segment: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    return require_flag(segment.get(name, default), f"A segment's {name}")


def _not_there(image: Any) -> str:
    return f"The image {image!r:.90} is not there, and this sample is nothing without it."


def _pair(row: Mapping[str, Any], find_image: FindImage) -> Record:
    builder = _Builder(find_image)
    builder.add_text(row["caption"] if "caption" in row else row["text"])
    builder.add_image(row["image"], 0)
    if builder.num_missing:
        raise BrokenSampleError(_not_there(row["image"]))
    return builder.record(fixed_order=False)
