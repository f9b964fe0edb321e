"""WebDataset shards of images and their captions: `x.jpg` next to `x.txt`, or to `x.json` with a "caption"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.data.sources.json_rows import read_json_row
from trainer.data.sources.places import PlaceList
from trainer.data.sources.problems import Problems
from trainer.data.sources.sample import (
    MAX_TEXT_BYTES,
    BrokenSampleError,
    PartialFile,
    Sample,
    StoredImage,
    read_bytes,
    to_text,
)
from trainer.data.sources.tar import IMAGE_SUFFIXES, Member, members, stem_and_suffix

MAX_FIELDS_TOLD = 8


def find_pairs(path: Path | str, problems: Problems) -> np.ndarray:
    """Where the pairs of a shard lie.

    Args:
        path: an uncompressed tar archive, or its URL; the members of a sample follow one another.
        problems: gets a sentence for each sample, and each archive, that cannot be used.

    Returns:
        [number of pairs] of `PLACE`.

    Raises:
        OSError: the system or the storage does not give out the file.
    """
    places = PlaceList()
    for stem, fields in _samples(members(path, problems)):
        image = next((member for suffix, member in fields.items() if suffix in IMAGE_SUFFIXES), None)
        text = fields.get("txt") or fields.get("json")
        if image is None or text is None:
            told = ", ".join(repr(name)[1:-1] for name in list(fields)[:MAX_FIELDS_TOLD])
            problems.add(f"{stem!r} has no {'image' if image is None else 'caption'}, only {told}")
        elif text.size > MAX_TEXT_BYTES:
            problems.add(f"{text.name!r} has {text.size:,} bytes; the limit is {MAX_TEXT_BYTES:,}")
        else:
            places.add(text.offset, text.size, image.offset, image.size, is_json="txt" not in fields)
    return places.array()


def _samples(found: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members that stand together and have one name, by their suffix. Where a suffix comes again, as in archives that
    were put together from several, another sample of that name begins."""
    current: str | None = None
    fields: dict[str, Member] = {}
    for member in found:
        stem, suffix = stem_and_suffix(member.name)
        if fields and (stem != current or suffix in fields):
            yield str(current), fields
            fields = {}
        current = stem
        fields[suffix] = member
    if fields:
        yield str(current), fields


def read_pair(path: Path | PartialFile, place: np.void, key: str) -> Sample:
    """The pair at a place of a shard. Raises BrokenSampleError."""
    text = to_text(read_bytes(path, int(place["text_offset"]), int(place["text_size"])))
    caption = caption_of(text) if place["is_json"] else text
    image = StoredImage(path, int(place["image_offset"]), int(place["image_size"]), text=0)
    return Sample(key, (" ".join(caption.split()),), (image,), fixed_order=False)


def caption_of(text: str) -> str:
    """The caption in a JSON object. Raises BrokenSampleError."""
    try:
        fields = read_json_row(text)
    except (ValueError, RecursionError) as error:
        raise BrokenSampleError(f"The caption's JSON cannot be read: {error}.") from error
    caption = fields.get("caption", fields.get("text")) if isinstance(fields, dict) else None
    if not isinstance(caption, str):
        raise BrokenSampleError('The JSON has no text under "caption" or "text".')
    return caption
