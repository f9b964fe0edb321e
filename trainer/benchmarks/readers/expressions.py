"""Sentences that single out one thing in an image: RefCOCO, RefCOCO+, RefCOCOg. Each sentence is a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import each, entries_of, read_json, whole_number
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.data.sources.pickles import load_pickle, text_of
from trainer.errors import UsageError


def read_references(references: Path, instances: Path, images: Path, split: str, expected: int | None) -> Split:
    """`refs(unc).p`, a pickle of `[{ref_id, ann_id, image_id, split, sentences: [{sent_id, sent}]}]` or the same as
    `.json`, with the boxes in `instances.json`. Nothing in a pickle is run."""
    try:
        listed = read_json(references) if references.suffix == ".json" else load_pickle(references)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    content = read_json(instances)
    files = {}
    boxes = {}

    def add_file(one: Mapping[str, Any]) -> None:
        files[whole_number(one["id"])] = (
            str(one["file_name"]),
            whole_number(one["width"]),
            whole_number(one["height"]),
        )

    def add_box(one: Mapping[str, Any]) -> None:
        x, y, width, height = map(float, one["bbox"])
        boxes[whole_number(one["id"])] = [x, y, width, height]

    each(instances, entries_of(instances, content, "images"), add_file)
    each(instances, entries_of(instances, content, "annotations"), add_box)

    def samples_of(one: Mapping[str, Any]) -> list[Sample]:
        if text_of(one["split"]) != split:
            return []
        annotation, image = whole_number(one["ann_id"]), whole_number(one["image_id"])
        if annotation not in boxes or image not in files:
            missing = f"annotation {annotation}" if annotation not in boxes else f"image {image}"
            raise UsageError(f"{instances} has no {missing}, which {references.name} names.")
        name, width, height = files[image]
        truth = {"box": boxes[annotation], "width": width, "height": height}
        path = ImageFile(images / Path(name).name, described_size=(width, height))
        return [
            Sample(f"{whole_number(one['ref_id'])}-{number}", (path, text_of(sentence["sent"])), truth)
            for number, sentence in enumerate(one["sentences"])
        ]

    samples = [sample for its in each(references, listed, samples_of) for sample in its]
    if not samples:
        splits = sorted({text_of(one["split"]) for one in listed})
        raise UsageError(f"{references.name} has no split {split!r}; it has {', '.join(splits)}.")
    return checked_split(split, samples, [references, instances], expected, thing="sentence")
