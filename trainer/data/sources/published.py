"""Data sets of the fine-tuning tasks as they were published, as rows of `tasks`.

| form | paths | rows for |
|---|---|---|
| vqav2 | questions and annotations of VQAv2, two .json files | vqa |
| coco_captions | captions_*.json of COCO | vqa: a caption answers a question too |
| llava | an array of conversations in one .json, as LLaVA has them | instruct |
| refcoco | refs(unc).p, or the same list as .json, with instances.json beside it: RefCOCO, RefCOCO+, RefCOCOg | rec |
| mdetr | finetune_refcoco_train.json and its like: in COCO's form, the expression is the caption of its image | rec |
| vist | *.story-in-sequence.json of VIST; images are named PHOTO_ID.jpg | story |
| pororo | the folder of PororoSV as StoryDALL-E publishes it | story |
| flintstones | the folder of FlintstonesSV as StoryDALL-E publishes it | story |

refcoco, pororo and flintstones hold several splits in one, of which one is read.

The images of vqav2, coco_captions, refcoco and mdetr are COCO's: words and boxes are about the pixels as they are
stored, since pycocotools, and the browsers of those who annotated it, do not turn images by their EXIF orientation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.sources.pickles import load_array, load_pickle, text_of
from trainer.data.sources.problems import Problems
from trainer.data.sources.regular_files import open_regular, require_size
from trainer.data.sources.sample import require_number
from trainer.data.sources.tasks import CAPTION_QUESTION

Row = dict[str, Any]
Items = Iterator[tuple[str, Callable[[], Iterable[Row]]]]
"""What names a part of the data in messages, and what makes its rows."""

INSTANCES = "instances.json"
PORORO = ("descriptions.npy", "img_cache4.npy", "following_cache4.npy", "train_seen_unseen_ids.npy")
PORORO_SPLITS = ("train", "val", "test")
FLINTSTONES = ("flintstones_annotations_v1-0.json", "following_cache4.pkl", "train-val-test_split.json")
FRAMES = "video_frames_sampled"
NUM_FOLLOWING = 4
"""A story of PororoSV or FlintstonesSV is a clip and so many that follow it."""

MAX_JSON_BYTES = 8 << 30
"""Of a file of annotations, which is read whole."""


@dataclass(frozen=True)
class Form:
    """One way in which data sets are published."""

    items: Callable[[Sequence[Path], str], Items]
    """The files and the split to what there is."""

    files: Callable[[Sequence[Path]], list[Path]] = list
    """What the user names to the files that are read."""


def files_of(form: str, paths: Sequence[Path]) -> list[Path]:
    """The files that a data set is read from.

    Raises:
        ValueError: one is not there.
    """
    files = FORMS[form].files(paths)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is {'a folder' if missing[0].is_dir() else 'not there'}; {form} needs a file.")
    return files


def read_published(form: str, files: Sequence[Path], split: str, problems: Problems) -> Iterator[tuple[str, Row]]:
    """The rows of a data set, each with its name. What cannot be used is passed over, with a sentence in `problems`.

    Raises:
        ValueError: a file cannot be read, holds something else, or has no such split.
    """
    try:
        for name, make in FORMS[form].items(files, split):
            try:
                rows = list(make())
            except Exception as error:  # annotations may hold anything, and an odd one ends no index
                problems.add(f"{name}: {_told(error)}")
                continue
            yield from ((name, row) for row in rows)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{', '.join(map(str, files))}: this is not what {form} looks like. {_told(error)}") from error


def _told(error: Exception) -> str:
    """What an error says; Python's own lookups say only what was missing, or how they were used."""
    if isinstance(error, TypeError | AttributeError):
        return "Something in it is of another type than expected: a list, say, in place of values by name."
    if isinstance(error, KeyError):
        return f"There is no {error!s:.80}, or more than one that differ."
    return str(error) or type(error).__name__


def _by_id(entries: Iterable[Any], key: str, value: str | None = None) -> dict[Any, Any]:
    """Entries by what stands under `key`: what stands under `value` there, or the entries themselves.

    Those that are damaged, or that differ and have the same key, are left out; who needs one says so.
    """
    found: dict[Any, Any] = {}
    ambiguous = set()
    for entry in entries:
        try:
            name = entry[key]
            wanted = entry if value is None else entry[value]
            if found.setdefault(name, wanted) != wanted:
                ambiguous.add(name)
        except (KeyError, TypeError, IndexError):
            continue
    return {name: wanted for name, wanted in found.items() if name not in ambiguous}


def _name_of(entry: Any, key: str, number: int) -> Any:
    """What names an entry in messages: its own name, else its number."""
    return entry[key] if isinstance(entry, Mapping) and key in entry else f"number {number}"


def _vqav2(files: Sequence[Path], _split: str) -> Items:
    """One row a question, answered as most people did; the split in the file gives the images' names."""
    contents = [_json(file) for file in files]
    questions = _by_id((one for content in contents for one in content.get("questions", ())), "question_id", "question")
    subtypes = {content["data_subtype"] for content in contents}
    if len(subtypes) != 1:
        raise ValueError(f"The files are of {sorted(map(str, subtypes))}; expected one data_subtype.")
    [subtype] = subtypes
    for number, one in enumerate(one for content in contents for one in content.get("annotations", ())):
        yield f"question {_name_of(one, 'question_id', number)}", partial(_vqav2_row, one, questions, subtype)


def _vqav2_row(one: Mapping[str, Any], questions: Mapping[int, str], subtype: str) -> Iterator[Row]:
    image = f"COCO_{subtype}_{one['image_id']:012d}.jpg"
    answer = one["multiple_choice_answer"]
    yield {"image": image, "question": questions[one["question_id"]], "answer": answer, "as_stored": True}


def _coco_captions(files: Sequence[Path], _split: str) -> Items:
    for content in map(_json, files):
        names = _by_id(content["images"], "id", "file_name")
        for number, one in enumerate(content["annotations"]):
            yield f"caption {_name_of(one, 'id', number)}", partial(_caption_row, one, names)


def _caption_row(one: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[Row]:
    image = names[one["image_id"]]
    yield {"image": image, "question": CAPTION_QUESTION, "answer": one["caption"], "as_stored": True}


def _llava(files: Sequence[Path], _split: str) -> Items:
    for content in map(_json, files):
        if not isinstance(content, list):
            raise ValueError(f"It holds a {type(content).__name__}; expected a list of conversations.")
        for number, one in enumerate(content):
            yield f"conversation {number}", partial(_llava_row, one)


def _llava_row(one: Mapping[str, Any]) -> Iterator[Row]:
    yield {"conversations": one["conversations"], **({"image": one["image"]} if "image" in one else {})}


def _refcoco_files(paths: Sequence[Path]) -> list[Path]:
    if len(paths) != 1:
        raise ValueError(f"refcoco is one file of references or its folder; got {len(paths)} paths.")
    [path] = paths
    if path.is_dir():
        found = sorted(
            file for file in path.iterdir() if file.name.startswith("refs(") and file.suffix in (".p", ".json")
        )
        if len(found) != 1:
            raise ValueError(
                f"{path} holds {', '.join(file.name for file in found) or 'no file refs(...).p'}; name the one to read."
            )
        [path] = found
    return [path, path.with_name(INSTANCES)]


def _refcoco(files: Sequence[Path], split: str) -> Items:
    """One row a sentence."""
    references, instances = files
    listed = _json(references) if references.suffix == ".json" else load_pickle(references)
    if not isinstance(listed, list):
        raise ValueError(f"{references.name} holds a {type(listed).__name__}; expected a list of references.")
    splits = sorted({str(one["split"]) for one in listed if isinstance(one, Mapping) and "split" in one})
    if split not in splits:
        raise ValueError(f"{references.name} has no split '{split}', only {', '.join(splits)}.")
    content = _json(instances)
    images = _by_id(content["images"], "id")
    boxes = _by_id(content["annotations"], "id", "bbox")
    for number, one in enumerate(listed):
        if not isinstance(one, Mapping) or one.get("split", split) == split:  # odd ones are told
            yield f"reference {_name_of(one, 'ref_id', number)}", partial(_reference_rows, one, images, boxes)


def _reference_rows(one: Mapping[str, Any], images: Mapping[int, Any], boxes: Mapping[int, Any]) -> Iterator[Row]:
    if isinstance(one["ann_id"], list):
        raise ValueError(f"It names {len(one['ann_id'])} things; expected one, which has one box.")
    for sentence in one["sentences"]:
        yield _expression_row(images[one["image_id"]], text_of(sentence["sent"]), boxes[one["ann_id"]])


def _mdetr(files: Sequence[Path], _split: str) -> Items:
    for content in map(_json, files):
        boxes: dict[Any, list[Any]] = {}
        for one in content["annotations"]:
            try:
                boxes.setdefault(one["image_id"], []).append(one["bbox"])
            except (KeyError, TypeError, IndexError):
                continue  # its image lacks a box, then, and is told
        for number, image in enumerate(content["images"]):
            yield f"image {_name_of(image, 'id', number)}", partial(_captioned_rows, image, boxes)


def _captioned_rows(image: Mapping[str, Any], all_boxes: Mapping[Any, Sequence[Any]]) -> Iterator[Row]:
    boxes = all_boxes.get(image["id"], ())
    if len(boxes) != 1:
        raise ValueError(f"It has {len(boxes)} boxes; expected one, of what its caption describes.")
    yield _expression_row(image, image["caption"], boxes[0])


def _expression_row(image: Mapping[str, Any], expression: str, bbox: Sequence[float]) -> Row:
    """A box that reaches a fraction of a pixel beyond its image, as some of COCO's do, ends at the edge."""
    width, height = (require_number(image[side], f"The image's {side}") for side in ("width", "height"))
    x, y, box_width, box_height = (require_number(number, "A number of the box") for number in bbox)
    corners = [max(x, 0), max(y, 0), min(x + box_width, width), min(y + box_height, height)]
    return {
        "image": text_of(image["file_name"]),
        "expression": expression,
        "box": corners,
        "width": width,
        "height": height,
        "as_stored": True,
    }


def _vist(files: Sequence[Path], _split: str) -> Items:
    """One row a story, its sentences in order."""
    stories: dict[str, list[Mapping[str, Any]]] = {}
    for content in map(_json, files):
        for number, group in enumerate(content["annotations"]):
            try:
                [one] = group
                stories.setdefault(one["story_id"], []).append(one)
            except (KeyError, TypeError, ValueError):
                yield f"annotation {number}", partial(_refused, "It is no list of one sentence with a story_id.")
    for name, parts in stories.items():
        yield f"story {name}", partial(_vist_row, parts)


def _refused(sentence: str) -> Iterable[Row]:
    raise ValueError(sentence)


def _vist_row(parts: list[Mapping[str, Any]]) -> Iterator[Row]:
    parts = sorted(parts, key=lambda one: int(one["worker_arranged_photo_order"]))
    yield {"story": [{"text": one["text"], "image": f"{one['photo_flickr_id']}.jpg"} for one in parts]}


def _in_folder(names: Sequence[str], paths: Sequence[Path]) -> list[Path]:
    return [path / name for path in paths for name in names]


def _pororo(files: Sequence[Path], split: str) -> Items:
    """One row a clip with four that follow it. Their images are strips of frames, in the same folder."""
    descriptions, firsts, followings, splits = map(load_array, files)
    if split not in PORORO_SPLITS:
        raise ValueError(f"There is no split '{split}', only {', '.join(PORORO_SPLITS)}.")
    [captions] = descriptions
    captions = {_clip(name): texts for name, texts in captions.items()}
    for number in sorted(splits[PORORO_SPLITS.index(split)]):
        yield f"story {number}", partial(_pororo_row, number, captions, firsts, followings)


def _pororo_row(
    number: int, captions: Mapping[str, Sequence[Any]], firsts: Sequence[Any], followings: Sequence[Sequence[Any]]
) -> Iterator[Row]:
    if not 0 <= int(number) < len(firsts):
        raise ValueError(f"There are {len(firsts)} stories.")
    clips = [_clip(name) for name in (firsts[int(number)], *followings[int(number)][:NUM_FOLLOWING])]
    yield _story([(text_of(captions[clip][0]), f"{clip}.png") for clip in clips])


def _clip(name: Any) -> str:
    return text_of(name).lstrip("/").removesuffix(".png")


def _flintstones(files: Sequence[Path], split: str) -> Items:
    """One row a clip with four that follow it. Their images are arrays of frames, in a folder beside."""
    annotations, followings, splits = _json(files[0]), load_pickle(files[1]), _json(files[2])
    if split not in splits:
        raise ValueError(f"{files[2].name} has no split '{split}', only {', '.join(splits)}.")
    captions = _by_id(annotations, "globalID", "description")
    for clip in splits[split]:
        if len(followings.get(clip, ())) == NUM_FOLLOWING:  # the last clips of an episode begin no story
            yield f"story {clip}", partial(_flintstones_row, [clip, *followings[clip]], captions)


def _flintstones_row(clips: Sequence[str], captions: Mapping[str, str]) -> Iterator[Row]:
    yield _story([(captions[clip], f"{FRAMES}/{clip}.npy") for clip in clips])


def _story(parts: Iterable[tuple[str, str]]) -> Row:
    return {"story": [{"text": " ".join(text.split()), "image": image, "strip": True} for text, image in parts]}


def _json(file: Path) -> Any:
    with open_regular(file) as opened:
        require_size(opened, file, MAX_JSON_BYTES)
        try:
            return json.loads(opened.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error


FORMS: Mapping[str, Form] = {
    "vqav2": Form(_vqav2),
    "coco_captions": Form(_coco_captions),
    "llava": Form(_llava),
    "refcoco": Form(_refcoco, _refcoco_files),
    "mdetr": Form(_mdetr),
    "vist": Form(_vist),
    "pororo": Form(_pororo, partial(_in_folder, PORORO)),
    "flintstones": Form(_flintstones, partial(_in_folder, FLINTSTONES)),
}
