"""From samples to documents: what is dropped, and what stands in which order (paper 4.1 and B.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from trainer.data.config import SourceConfig
from trainer.data.document import Image, Segment, Text
from trainer.data.sources.sample import Sample, StoredImage

Item = str | Text | StoredImage
"""A segment before its image is decoded; a text with marks is one already."""


def chosen_images(sample: Sample, rules: SourceConfig, rng: np.random.Generator) -> list[StoredImage] | None:
    """The images of a sample that are kept, in their order; None if the sample is dropped."""
    images = list(sample.images)
    if rules.min_similarity is not None:
        least = rules.min_similarity
        images = [image for image in images if image.similarity is None or image.similarity >= least]
    if rules.max_images is not None and len(images) > rules.max_images:
        kept = sorted(rng.choice(len(images), rules.max_images, replace=False).tolist())
        images = [images[index] for index in kept]
    if sample.is_pair:
        is_described = len(sample.texts[0]) >= max(1, rules.min_caption_chars)
        return images if images and is_described else None
    if not images and rng.random() >= rules.keep_no_image:
        return None
    if len(images) == 1 and rng.random() >= rules.keep_one_image:
        return None
    return images


def in_reading_order(sample: Sample, images: Iterable[StoredImage], comes_first: Callable[[], bool]) -> list[Item]:
    """Texts and images one after the other.

    Args:
        sample: gives the texts; empty ones are left out.
        images: its images that are kept.
        comes_first: asked for each image whether it stands before its text, unless the sample's order is fixed.
    """
    before: dict[int, list[Item]] = {}
    after: dict[int, list[Item]] = {}
    for image in images:
        side = before if sample.fixed_order or comes_first() else after
        side.setdefault(image.text, []).append(image)
    items: list[Item] = []
    for number, text in enumerate(sample.texts):
        items += before.get(number, [])
        items += [_marked(sample, number)] if text else []
        items += after.get(number, [])
    return items + before.get(len(sample.texts), [])


def _marked(sample: Sample, number: int) -> str | Text:
    text, marks = sample.texts[number], sample.marks
    if number in marks.given_texts or number in marks.turn_ends:
        return Text(text, loss=number not in marks.given_texts, ends_turn=number in marks.turn_ends)
    return text


def as_segments(items: Iterable[str | Text | Image], *, text_loss_needs_image: bool, space: str) -> tuple[Segment, ...]:
    """The segments of a document.

    Args:
        items: texts and decoded images.
        text_loss_needs_image: whether text before the first image carries no loss.
        space: what stands between a text and what comes before it, unless the text is given.
    """
    segments: list[Segment] = []
    has_image = False
    for item in items:
        if isinstance(item, Image):
            segments.append(item)
            has_image = True
        elif isinstance(item, Text):
            segments.append(replace(item, text=space + item.text) if item.loss else item)
        else:
            lead = space if segments else ""
            segments.append(Text(lead + item, loss=has_image or not text_loss_needs_image))
    return tuple(segments)


def entered_anywhere(
    segments: tuple[Segment, ...], length: Callable[[Segment], int], num_tokens: int, rng: np.random.Generator
) -> tuple[Segment, ...]:
    """A long document from one of its segments on, so that each of its parts is met sometimes.

    Args:
        segments: of a document.
        length: the tokens of a segment.
        num_tokens: how many will be taken.
        rng: chooses among the first segment and those after it, up to one from which all of the rest is taken.
    """
    lengths = np.array([length(segment) for segment in segments])
    from_here = np.cumsum(lengths[::-1])[::-1]
    last = min(int((from_here > num_tokens).sum()), len(segments) - 1)  # from here on, all of the rest fits
    start = int(rng.integers(last, endpoint=True))
    first, *rest = segments[start:]
    if start and isinstance(first, Text):
        first = replace(first, text=first.text.removeprefix(" "))
    return (first, *rest)
