"""Images with several captions each: COCO, Flickr30k, nocaps, Image2Paragraph. A sample is an image, not a caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import (
    each,
    entries_of,
    read_json,
    text,
    whole_number,
)
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.errors import UsageError


def read_coco_form(annotations: Path, images: Path, split: str, expected: int | None) -> Split:
    """`{images: [{id, file_name}], annotations: [{id, image_id, caption}]}`: COCO and nocaps.

    nocaps names the domain of an image, which its partial scores go by.
    """
    content = read_json(annotations)
    captions: dict[int, list[str]] = {}

    def add(one: Mapping[str, Any]) -> None:
        captions.setdefault(whole_number(one["image_id"]), []).append(text(one["caption"]))

    each(annotations, entries_of(annotations, content, "annotations"), add)

    def sample(one: Mapping[str, Any]) -> Sample:
        number = whole_number(one["id"])
        if number not in captions:
            raise ValueError(f"image {number} has no caption.")
        truth = {"references": captions[number], **({"domain": text(one["domain"])} if "domain" in one else {})}
        return Sample(str(number), (ImageFile(images / text(one["file_name"])),), truth)

    samples = each(annotations, entries_of(annotations, content, "images"), sample)
    return _split(split, samples, [annotations], expected)


def read_karpathy(annotations: Path, images: Path, split: str, expected: int | None) -> Split:
    """`{images: [{split, filepath, filename, cocoid, sentences: [{raw}]}]}`: the splits of Karpathy."""
    content = read_json(annotations)

    def sample(one: Mapping[str, Any]) -> Sample | None:
        if one["split"] != split:
            return None
        name = text(one["filename"])
        number = str(one["cocoid"]) if "cocoid" in one else Path(name).stem
        path = images / text(one.get("filepath", "")) / name
        return Sample(number, (ImageFile(path),), {"references": [text(said["raw"]) for said in one["sentences"]]})

    found = each(annotations, entries_of(annotations, content, "images"), sample)
    return _split(split, [one for one in found if one is not None], [annotations], expected)


def read_lavis(annotations: Path, images: Path, split: str, expected: int | None) -> Split:
    """`[{image: "val2014/COCO_val2014_000000391895.jpg", caption: [...]}]`: `coco_karpathy_test.json` of LAVIS. The
    image's id is the number in its name."""

    def sample(one: Mapping[str, Any]) -> Sample:
        name = text(one["image"])
        return Sample(
            str(int(Path(name).stem.rpartition("_")[2])),
            (ImageFile(images / name),),
            {"references": [text(said) for said in one["caption"]]},
        )

    samples = each(annotations, entries_of(annotations, read_json(annotations)), sample)
    return _split(split, samples, [annotations], expected)


def read_paragraphs(paragraphs: Path, test_split: Path, images: Path, split: str, expected: int | None) -> Split:
    """`[{image_id, url, paragraph}]` with a list of the split's images: Image2Paragraph. An image's file is named by
    the last two parts of its address, `VG_100K/2345.jpg`."""
    wanted = each(test_split, entries_of(test_split, read_json(test_split)), whole_number)
    known: dict[int, tuple[str, str]] = {}

    def add(one: Mapping[str, Any]) -> None:
        place = "/".join(text(one["url"]).split("/")[-2:])
        known[whole_number(one["image_id"])] = (place, text(one["paragraph"]))

    each(paragraphs, entries_of(paragraphs, read_json(paragraphs)), add)
    missing = [number for number in wanted if number not in known]
    if missing:
        raise UsageError(f"{paragraphs} has no paragraph of image {missing[0]}, which {test_split.name} names.")
    samples = [
        Sample(str(number), (ImageFile(images / known[number][0]),), {"references": [known[number][1]]})
        for number in wanted
    ]
    return _split(split, samples, [paragraphs, test_split], expected)


def _split(name: str, samples: list[Sample], files: list[Path], expected: int | None) -> Split:
    for sample in samples:
        if not sample.truth["references"]:
            raise UsageError(f"{files[0]}: image {sample.id} has no caption.")
    return checked_split(name, samples, files, expected, thing=f"image of the split {name!r}")
