"""Stories of five images: VIST, PororoSV, FlintstonesSV."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import each, explained, read_json, text
from trainer.benchmarks.sample import DrawnBefore, ImageFile, Sample, Segment, Split
from trainer.data.sources.problems import Problems
from trainer.data.sources.published import NUM_FOLLOWING, files_of, read_published
from trainer.errors import UsageError

SEED = 0
"""Which frame of a clip is meant is random in the published programs; here it is the same for everybody."""


def read_vist(stories: Path, images: Path, split: str, expected: int | None) -> Split:
    """`val.story-in-sequence.json`, or the list of GILL, `val_formatted.json`: `[{story_id?, image_ids or images,
    captions}]`. Asked is the last image, after four pairs of a sentence and its image, and the last sentence."""
    rows: list[tuple[str, list[tuple[str, str]]]]
    content = read_json(stories)
    if isinstance(content, Mapping) and "annotations" in content:
        rows = [
            (name.removeprefix("story "), [(part["text"], part["image"]) for part in row["story"]])
            for name, row in _published("vist", [stories], split)
        ]
    else:
        rows = each(stories, content if isinstance(content, list) else [content], _formatted)
        rows = [(name or str(number), parts) for number, (name, parts) in enumerate(rows)]
    samples, real = [], []
    for name, parts in rows:
        *context, (last_text, last_image) = parts
        document: list[Segment] = []
        for sentence, image in context:
            document += [sentence, ImageFile(images / image)]
        samples.append(Sample(name, (*document, last_text)))
        real.append(ImageFile(images / last_image))
    return checked_split(split, samples, [stories], expected, thing="story", real_images=real)


def _formatted(one: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    names = one["image_ids"] if "image_ids" in one else one["images"]
    captions = [text(said) for said in one["captions"]]
    if len(names) != len(captions) or not captions:
        raise ValueError(f"it has {len(names)} images for {len(captions)} captions.")
    files = [str(name) if Path(str(name)).suffix else f"{name}.jpg" for name in names]
    return str(one.get("story_id", "")), list(zip(captions, files, strict=True))


def read_clips(form: str, folder: Path, split: str, expected: int | None) -> Split:
    """PororoSV or FlintstonesSV in the folder of StoryDALL-E: the first image and all sentences are given, and images
    2 to 5 are drawn one after another, each of which the next one is drawn after.

    A sample is an image to draw; `expected` counts stories.
    """
    samples, real = [], []
    for name, row in _published(form, [folder], split):
        story = name.removeprefix("story ")
        generator = random.Random(f"{SEED} {form} {story}")
        frames = [ImageFile(folder / part["image"], "frames", round(generator.random(), 6)) for part in row["story"]]
        texts = [part["text"] for part in row["story"]]
        document: list[Segment] = [texts[0], frames[0]]
        for number in range(1, len(texts)):
            sample = Sample(f"{story}-{number + 1}", (*document, texts[number]), {"story": story})
            samples.append(sample)
            real.append(frames[number])
            document += [texts[number], DrawnBefore(sample.id)]
    files = files_of(form, [folder])
    num_drawn = None if expected is None else expected * NUM_FOLLOWING
    return checked_split(split, samples, files, num_drawn, thing="story", real_images=real)


def _published(form: str, paths: Sequence[Path], split: str) -> list[tuple[str, Mapping[str, Any]]]:
    problems = Problems()
    try:
        rows: list[tuple[str, Mapping[str, Any]]] = [*read_published(form, files_of(form, paths), split, problems)]
    except (OSError, ValueError) as error:
        raise UsageError(explained(error)) from error
    if problems.count:
        raise UsageError(f"{paths[0]}: {'; '.join(problems.named())}")
    return rows
