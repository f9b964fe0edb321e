"""WebDataset shards of images and their captions: `x.jpg` next to `x.txt`, or to `x.json` with a "caption"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from trainer.data.sources.places import PLACE
from trainer.data.sources.sample import MAX_TEXT_BYTES, BrokenSampleError, Sample, StoredImage, read_bytes, to_text
from trainer.data.sources.tar import IMAGE_SUFFIXES, Member, members, stem_and_suffix


def find_pairs(path: Path, problems: list[str]) -> np.ndarray:
    """Where the pairs of a shard lie.

    Args:
        path: an uncompressed tar archive; the members of a sample follow one another.
        problems: gets a sentence for each sample, and each archive, that cannot be used.

    Returns:
        [number of pairs] of `PLACE`.
    """
    return np.array(list(_rows(path, problems)), dtype=PLACE)


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, int, int, int, int, bool]]:
    for stem, group in groupby(members(path, problems), key=lambda member: stem_and_suffix(member.name)[0]):
        fields = {stem_and_suffix(member.name)[1]: member for member in group}
        image = next((member for suffix, member in fields.items() if suffix in IMAGE_SUFFIXES), None)
        text: Member | None = fields.get("txt") or fields.get("json")
        if image is None or text is None:
            problems.append(f"{stem} has no {'image' if image is None else 'caption'}, only {', '.join(fields)}")
        elif text.size > MAX_TEXT_BYTES:
            problems.append(f"{text.name} has {text.size:,} bytes; the limit is {MAX_TEXT_BYTES:,}")
        else:
            yield 0, text.offset, text.size, image.offset, image.size, "txt" not in fields


def read_pair(path: Path, place: np.void, key: str) -> Sample:
    """The pair at a place of a shard. Raises BrokenSampleError."""
    text = to_text(read_bytes(path, int(place["text_offset"]), int(place["text_size"])))
    caption = caption_of(text) if place["is_json"] else text
    image = StoredImage(path, int(place["image_offset"]), int(place["image_size"]), text=0)
    return Sample(key, (" ".join(caption.split()),), (image,), fixed_order=False)


def caption_of(text: str) -> str:
    """The caption in a JSON object. Raises BrokenSampleError."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenSampleError(f"The caption's JSON cannot be read: {error}.") from error
    caption = fields.get("caption", fields.get("text")) if isinstance(fields, dict) else None
    if not isinstance(caption, str):
        raise BrokenSampleError('The JSON has no text under "caption" or "text".')
    return caption
