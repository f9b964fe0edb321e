"""Texts and label maps to draw after: COCO's captions, Localized Narratives, ADE20K."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import (
    each,
    entries_of,
    read_json,
    read_json_lines,
    text,
    whole_number,
)
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.errors import UsageError

Prompts = Literal["ours", "release"]

SEED = 0
"""Which captions are drawn, and which image of a film is meant, is random, and the same for everybody."""


def read_coco_prompts(
    annotations: Path, images: Path, split: str, num_samples: int, prompts: Prompts = "ours"
) -> Split:
    """Captions of `captions_val2014.json` to draw. The real images are those of the whole split.

    Args:
        prompts: "ours": one caption for each of `num_samples` images, chosen by a fixed seed; "release": the first
            `num_samples` captions in the file's order, so that some images are drawn several times.
    """
    content = read_json(annotations)
    files: dict[int, str] = {}

    def add(one: Mapping[str, Any]) -> None:
        files[whole_number(one["id"])] = text(one["file_name"])

    each(annotations, entries_of(annotations, content, "images"), add)
    said = each(
        annotations,
        entries_of(annotations, content, "annotations"),
        lambda one: (whole_number(one["id"]), whole_number(one["image_id"]), text(one["caption"])),
    )
    unknown = [image for _, image, _ in said if image not in files]
    if unknown:
        raise UsageError(f"{annotations} has captions of image {unknown[0]}, but no such image.")
    if prompts == "release":
        chosen = said[:num_samples]
    else:
        by_image: dict[int, list[tuple[int, int, str]]] = {}
        for one in sorted(said):
            by_image.setdefault(one[1], []).append(one)
        generator = random.Random(SEED)
        drawn = generator.sample(sorted(by_image), min(num_samples, len(by_image)))
        chosen = [generator.choice(by_image[image]) for image in drawn]
    samples = [
        Sample(str(caption_id), (" ".join(caption.lower().split()),), {"image": files[image]})
        for caption_id, image, caption in chosen
    ]
    are_paired = prompts == "release"
    shown = [sample.truth["image"] for sample in samples] if are_paired else sorted(files.values())
    return checked_split(
        split,
        samples,
        [annotations],
        num_samples,
        thing="caption",
        real_images=[ImageFile(images / name) for name in shown],
        are_paired=are_paired,
    )


def read_narratives(narratives: Path, images: Path, split: str, num_samples: int) -> Split:
    """Localized Narratives of COCO's val2017, a line each: `{image_id, caption}`. Fewer than `num_samples` are drawn
    several times; captions keep their case."""
    said = each(
        narratives,
        read_json_lines(narratives),
        lambda one: (whole_number(one["image_id"]), " ".join(text(one["caption"]).split())),
    )
    if not said:
        raise UsageError(f"{narratives} has no line.")
    generator = random.Random(SEED)
    numbers = list(range(len(said)))
    more = [generator.choice(numbers) for _ in range(num_samples - len(said))]
    chosen = (numbers + more) if len(said) <= num_samples else sorted(generator.sample(numbers, num_samples))
    times: dict[int, int] = {}
    samples = []
    for number in chosen:
        times[number] = times.get(number, 0) + 1
        image, caption = said[number]
        samples.append(Sample(f"{number}-{times[number]}", (caption,), {"image": f"{image:012d}.jpg"}))
    real = [ImageFile(images / sample.truth["image"]) for sample in samples]
    return checked_split(split, samples, [narratives], num_samples, thing="caption", real_images=real)


def read_ade20k(folder: Path, split: str, expected: int | None) -> Split:
    """`ADEChallengeData2016/{images,annotations}/validation`, with captions in `captions.json`, `{image_id: caption}`,
    or else the names of the scenes in `sceneCategories.txt`, a line each: `ADE_val_00000001 corridor`."""
    labels = sorted((folder / "annotations" / split).glob("*.png"))
    if not labels:
        raise UsageError(f"{folder / 'annotations' / split} has no label map, ADE_val_00000001.png and so on.")
    captions_file, scenes_file = folder / "captions.json", folder / "sceneCategories.txt"
    if captions_file.is_file():
        captions = read_json(captions_file)
        if not isinstance(captions, Mapping):
            raise UsageError(f"{captions_file} holds a {type(captions).__name__}; expected captions by image.")
        source = captions_file
    elif scenes_file.is_file():
        try:
            lines = scenes_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise UsageError(f"{scenes_file} cannot be read: {error}") from error
        captions = {name: scene.replace("_", " ").strip() for name, _, scene in (line.partition(" ") for line in lines)}
        source = scenes_file
    else:
        raise UsageError(
            f"{folder} has neither captions.json nor sceneCategories.txt, and every label map needs a text."
        )
    missing = [path.stem for path in labels if not isinstance(captions.get(path.stem), str)]
    if missing:
        raise UsageError(f"{source} has no text for {missing[0]}, one of {len(missing)} such label maps.")
    samples = [
        Sample(
            path.stem,
            (ImageFile(path, "label map"), captions[path.stem]),
            {"label": str(path), "text": source.name},
        )
        for path in labels
    ]
    real = [ImageFile(folder / "images" / split / f"{path.stem}.jpg") for path in labels]
    return Split(split, samples, [source, *labels], expected, real)
