"""`python -m trainer.benchmarks.small_folders --out DIR`: a few samples of every benchmark, in its official form.

The images are scenes of the emoji world, the questions and answers about what they show. With them every benchmark can
be tried before gigabytes are fetched: `python -m trainer.evaluate trainer/weights/toy --benchmark all --data DIR --out
OUT`. The figures say nothing about the benchmarks themselves.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from models.program import explained, run_program
from models.urls import local_path
from trainer.benchmarks.emoji import SETTINGS
from trainer.data.document import Image, Text
from trainer.data.emoji.compositions import Split
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.process.out_directory import check_directory, make_directory

PROGRAM = "python -m trainer.benchmarks.small_folders"
SIDE = 64
"""Of the scenes, in pixels."""

FIRST_TRAINING_NUMBER = 1001

NUM_FRAMES = 3
"""Of a clip in PororoSV and FlintstonesSV."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image of the emoji world, with what is to be said about it."""

    number: int
    image: PILImage.Image
    caption: str
    question: str
    answer: str
    name: str
    """Of one of its things."""

    box: tuple[float, float, float, float]
    """Of that thing: x, y, width and height in pixels."""


def scenes(num: int, part: Split = "val") -> Iterator[Scene]:
    """Scenes with a caption, a question and a box each; those to learn from have other numbers and other images."""
    options = TaskOptions(SETTINGS.num_concepts, SIDE, SETTINGS.num_sprites)
    captions = documents("caption", part, 0, num, seed=0, options=options)
    for number, document in enumerate(captions):
        [image] = [segment for segment in document.segments if isinstance(segment, Image)]
        facts = document.truth["images"][0]
        thing = facts["objects"][0]
        left, top, right, bottom = thing["box_px"]
        yield Scene(
            number=number + (1 if part == "val" else FIRST_TRAINING_NUMBER),
            image=PILImage.fromarray(image.pixels),
            caption=document.truth["answer"],
            question=f"what colour is behind the {thing['name']}?",
            answer=facts["background"],
            name=thing["name"],
            box=(left, top, right - left, bottom - top),
        )


def write_all(data: Path, num: int = 6) -> None:
    """Every benchmark's files, below one folder."""
    shown, training = list(scenes(num)), list(scenes(num, "train"))
    write_coco(data, shown, training)
    write_captions(data, shown, training)
    write_questions(data, shown, training)
    write_dialogues(data, shown)
    write_references(data, shown)
    write_label_maps(data, num)
    write_stories(data, num)


def write_coco(data: Path, shown: Sequence[Scene], training: Sequence[Scene]) -> None:
    """The images of COCO's four parts, Karpathy's split of their captions, and the captions to draw."""
    for folder, name, some in (
        ("val2014", "COCO_val2014_{:012d}.jpg", shown),
        ("test2015", "COCO_test2015_{:012d}.jpg", shown),
        ("train2014", "COCO_train2014_{:012d}.jpg", [*shown, *training]),
        ("val2017", "{:012d}.jpg", shown),
    ):
        for scene in some:
            _save(scene.image, data / "coco" / folder / name.format(scene.number))
    name = "COCO_val2014_{:012d}.jpg"
    parts = [
        ("val", "val2014", shown[:1]),
        ("test", "val2014", shown[1:]),
        ("train", "train2014", training),
    ]
    karpathy = [
        {
            "split": split,
            "filepath": folder,
            "filename": f"COCO_{folder}_{scene.number:012d}.jpg",
            "cocoid": scene.number,
            "sentences": [{"raw": said} for said in _said(scene)],
        }
        for split, folder, some in parts
        for scene in some
    ]
    _json(data / "coco/dataset_coco.json", {"images": karpathy})
    _json(
        data / "coco/annotations/captions_val2014.json",
        {
            "images": [{"id": scene.number, "file_name": name.format(scene.number)} for scene in shown],
            "annotations": [
                {"id": 10 * scene.number + place, "image_id": scene.number, "caption": said}
                for scene in shown
                for place, said in enumerate(_said(scene))
            ],
        },
    )
    narratives = [
        json.dumps({"image_id": str(scene.number), "caption": f"In this image we see {scene.caption}."})
        for scene in shown
    ]
    _write(data / "coco/coco_val_captions.jsonl", "\n".join(narratives) + "\n")


def write_captions(data: Path, shown: Sequence[Scene], training: Sequence[Scene]) -> None:
    """Flickr30k, nocaps and Image2Paragraph."""
    flickr = [
        {"split": split, "filename": f"{scene.number}.jpg", "sentences": [{"raw": said} for said in _said(scene)]}
        for split, some in (("test", shown), ("train", training))
        for scene in some
    ]
    _json(data / "flickr30k/dataset_flickr30k.json", {"images": flickr})
    domains = ("in-domain", "near-domain", "out-domain")
    _json(
        data / "nocaps/nocaps_val_4500_captions.json",
        {
            "images": [
                {"id": scene.number, "file_name": f"{scene.number}.jpg", "domain": domains[scene.number % 3]}
                for scene in shown
            ],
            "annotations": [
                {"id": 10 * scene.number + place, "image_id": scene.number, "caption": said}
                for scene in shown
                for place, said in enumerate(_said(scene))
            ],
        },
    )
    _json(
        data / "image2paragraph/paragraphs_v1.json",
        [
            {
                "image_id": scene.number,
                "url": f"https://example.org/VG_100K/{scene.number}.jpg",
                "paragraph": f"There is {scene.caption}. The {scene.name} is easy to see.",
            }
            for scene in [*shown, *training]
        ],
    )
    _json(data / "image2paragraph/test_split.json", [scene.number for scene in shown[1:]])
    _json(data / "image2paragraph/train_split.json", [scene.number for scene in training])
    for scene in shown:
        _save(scene.image, data / f"nocaps/images/{scene.number}.jpg")
    for scene in [*shown, *training]:
        _save(scene.image, data / f"flickr30k/flickr30k-images/{scene.number}.jpg")
        _save(scene.image, data / f"image2paragraph/images/VG_100K/{scene.number}.jpg")


def write_questions(data: Path, shown: Sequence[Scene], training: Sequence[Scene]) -> None:
    """VQAv2, OK-VQA, GQA, VizWiz and TextVQA, with two questions an image where there may be several."""
    for split, some in (("val", shown), ("train", training)):
        asked = _asked(some)
        part = {"data_type": "mscoco", "data_subtype": f"{split}2014"}
        questions, annotations = _vqa_questions(asked), _vqa_annotations(asked)
        _json(data / f"vqav2/v2_OpenEnded_mscoco_{split}2014_questions.json", {**part, "questions": questions})
        _json(data / f"vqav2/v2_mscoco_{split}2014_annotations.json", {**part, "annotations": annotations})
        _json(data / f"okvqa/OpenEnded_mscoco_{split}2014_questions.json", {**part, "questions": questions})
        _json(data / f"okvqa/mscoco_{split}2014_annotations.json", {**part, "annotations": annotations})
        _json(data / f"gqa/{'testdev' if split == 'val' else split}_balanced_questions.json", _gqa_questions(asked))
        _json(data / f"vizwiz/{split}.json", _vizwiz_questions(some, split))
        textvqa = [
            {"question_id": one.id, "question": one.question, "image_id": f"t{one.image}", "answers": _ten(one.answer)}
            for one in asked
        ]
        _json(data / f"textvqa/TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": textvqa})
        for scene in some:
            _save(scene.image, data / f"gqa/images/n{scene.number}.jpg")
            _save(scene.image, data / f"vizwiz/{split}/VizWiz_{split}_{scene.number:08d}.jpg")
            _save(scene.image, data / f"textvqa/train_images/t{scene.number}.jpg")
    _json(
        data / "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json",
        {"data_type": "mscoco", "data_subtype": "test2015", "questions": _vqa_questions(_asked(shown))},
    )
    _json(
        data / "vizwiz/test.json",
        [{"image": f"VizWiz_test_{scene.number:08d}.jpg", "question": scene.question} for scene in shown],
    )
    for scene in shown:
        _save(scene.image, data / f"vizwiz/test/VizWiz_test_{scene.number:08d}.jpg")


@dataclass(frozen=True)
class Asked:
    """A question about an image."""

    id: int
    image: int
    question: str
    answer: str


def _asked(shown: Sequence[Scene]) -> list[Asked]:
    return [
        Asked(10 * scene.number + place, scene.number, question, answer)
        for scene in shown
        for place, (question, answer) in enumerate(
            ((scene.question, scene.answer), (f"is there a {scene.name}?", "yes"))
        )
    ]


def _vqa_questions(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return [{"question_id": one.id, "image_id": one.image, "question": one.question} for one in asked]


def _vqa_annotations(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return [
        {
            "question_id": one.id,
            "image_id": one.image,
            "question_type": " ".join(one.question.split()[:2]),
            "answer_type": "yes/no" if one.answer == "yes" else "other",
            "multiple_choice_answer": one.answer,
            "answers": [
                {"answer": said, "answer_confidence": "yes", "answer_id": place}
                for place, said in enumerate(_ten(one.answer), 1)
            ],
        }
        for one in asked
    ]


def _gqa_questions(asked: Sequence[Asked]) -> dict[str, Any]:
    return {
        str(one.id): {
            "question": one.question,
            "imageId": f"n{one.image}",
            "answer": one.answer,
            "isBalanced": True,
            "types": {"structural": "verify" if one.answer == "yes" else "query", "semantic": "attr", "detailed": "x"},
        }
        for one in asked
    }


def _vizwiz_questions(shown: Sequence[Scene], split: str) -> list[dict[str, Any]]:
    return [
        {
            "image": f"VizWiz_{split}_{scene.number:08d}.jpg",
            "question": scene.question,
            "answers": [{"answer": said, "answer_confidence": "yes"} for said in _ten(scene.answer)],
            "answer_type": "other",
            "answerable": 1,
        }
        for scene in shown
    ]


def write_dialogues(data: Path, shown: Sequence[Scene]) -> None:
    """VisDial, with a hundred options for the last of three questions."""
    answers = ["yes", "no", *(f"it is {number}" for number in range(98))]
    questions = ["is it in colour", "do you see people", "is there a background"]
    dialogs, dense = [], []
    for scene in shown:
        turns = [
            {"question": turn, "answer": turn % 2, "answer_options": list(range(100)), "gt_index": turn % 2}
            for turn in range(3)
        ]
        dialogs.append({"image_id": scene.number, "caption": scene.caption, "dialog": turns})
        relevance = [0.0] * 100
        relevance[0], relevance[5] = 1.0, 0.4
        dense.append({"image_id": scene.number, "round_id": 3, "gt_relevance": relevance})
        _save(scene.image, data / f"visdial/VisualDialog_val2018/VisualDialog_val2018_{scene.number:012d}.jpg")
    content = {
        "version": "1.0",
        "split": "val",
        "data": {"questions": questions, "answers": answers, "dialogs": dialogs},
    }
    _json(data / "visdial/visdial_1.0_val.json", content)
    _json(data / "visdial/visdial_1.0_val_dense_annotations.json", dense)


def write_references(data: Path, shown: Sequence[Scene]) -> None:
    """RefCOCO, RefCOCO+ and RefCOCOg, as the pickles in which they are published."""
    instances = {
        "images": [
            {"id": scene.number, "file_name": f"COCO_train2014_{scene.number:012d}.jpg", "width": SIDE, "height": SIDE}
            for scene in shown
        ],
        "annotations": [
            {"id": 100 + scene.number, "image_id": scene.number, "bbox": list(scene.box)} for scene in shown
        ],
    }
    for folder, partition, splits in (
        ("refcoco", "unc", ("val", "testA", "testB")),
        ("refcoco+", "unc", ("val", "testA", "testB")),
        ("refcocog", "umd", ("val", "test")),
    ):
        references = [
            {
                "ref_id": len(splits) * scene.number + place,
                "ann_id": 100 + scene.number,
                "image_id": scene.number,
                "split": split,
                "sentences": [
                    {
                        "sent_id": 0,
                        "sent": f"the {scene.name}",
                        "raw": f"the {scene.name}",
                        "tokens": ["the", scene.name],
                    }
                ],
            }
            for scene in shown
            for place, split in enumerate(splits)
        ]
        _json(data / folder / "instances.json", instances)
        (data / folder / f"refs({partition}).p").write_bytes(pickle.dumps(references, protocol=2))


def write_label_maps(data: Path, num: int) -> None:
    """ADE20K: each thing of a scene is a class of its own."""
    folder = data / "ade20k/ADEChallengeData2016"
    lines = []
    options = TaskOptions(SETTINGS.num_concepts, SIDE, SETTINGS.num_sprites)
    for number, document in enumerate(documents("label_map", "val", 0, num, seed=0, options=options), 1):
        texts = [segment.text.strip() for segment in document.segments if isinstance(segment, Text)]
        *_, image = (segment for segment in document.segments if isinstance(segment, Image))
        classes = np.ones((SIDE, SIDE), dtype=np.uint8)
        for thing in document.truth["images"][1]["objects"]:
            left, top, right, bottom = thing["box_px"]
            classes[top:bottom, left:right] = 2 + thing["sprite"]
        classes[0, :] = 0  # unlabelled
        name = f"ADE_val_{number:08d}"
        _save(PILImage.fromarray(image.pixels), folder / f"images/validation/{name}.jpg")
        _save(PILImage.fromarray(classes), folder / f"annotations/validation/{name}.png")
        lines.append(f"{name} {texts[-1].replace(' ', '_')}")
    _write(folder / "sceneCategories.txt", "\n".join(lines) + "\n")


def write_stories(data: Path, num: int) -> None:
    """VIST, PororoSV and FlintstonesSV: five scenes each."""
    length = 5
    shown = list(scenes(num + length - 1))
    vist = [
        {
            "story_id": str(number),
            "image_ids": [f"{scene.number}" for scene in shown[number : number + length]],
            "captions": [scene.caption for scene in shown[number : number + length]],
        }
        for number in range(num)
    ]
    _json(data / "vist/val_formatted.json", vist)
    clips = [f"Pororo_ENGLISH1_1/{scene.number}" for scene in shown]
    descriptions = {f"{clip}": [scene.caption] for clip, scene in zip(clips, shown, strict=True)}
    pororo = data / "pororo"
    pororo.mkdir(parents=True, exist_ok=True)
    np.save(pororo / "descriptions.npy", np.array(descriptions, dtype=object), allow_pickle=True)
    np.save(
        pororo / "img_cache4.npy", np.array([f"{clip}.png" for clip in clips[:num]], dtype=object), allow_pickle=True
    )
    following = [[f"{clip}.png" for clip in clips[number + 1 : number + length]] for number in range(num)]
    np.save(pororo / "following_cache4.npy", np.array(following, dtype=object), allow_pickle=True)
    splits = np.array([[], [], list(range(num))], dtype=object)
    np.save(pororo / "train_seen_unseen_ids.npy", splits, allow_pickle=True)
    names = [f"s_01_e_01_shot_{scene.number:06d}_000000_000074" for scene in shown]
    flintstones = data / "flintstones"
    _json(
        flintstones / "flintstones_annotations_v1-0.json",
        [{"globalID": name, "description": scene.caption} for name, scene in zip(names, shown, strict=True)],
    )
    followers = {name: names[number + 1 : number + length] for number, name in enumerate(names)}
    (flintstones / "following_cache4.pkl").write_bytes(pickle.dumps(followers, protocol=2))
    _json(flintstones / "train-val-test_split.json", {"train": [], "val": [], "test": names})
    for scene, clip, name in zip(shown, clips, names, strict=True):
        _save(scene.image, data / f"vist/images/{scene.number}.jpg")
        frames = np.stack([np.asarray(scene.image)] * NUM_FRAMES)
        _save(PILImage.fromarray(np.concatenate(list(frames))), pororo / f"{clip}.png")
        (flintstones / "video_frames_sampled").mkdir(exist_ok=True)
        np.save(flintstones / f"video_frames_sampled/{name}.npy", frames)


def _said(scene: Scene) -> list[str]:
    """Five people's captions of a scene."""
    return [
        f"{scene.caption}.",
        f"An image of {scene.caption}",
        f"{scene.caption}, seen from the front",
        f"There is {scene.caption}.",
        f"A {scene.name} and a {scene.answer} background.",
    ]


def _ten(answer: str) -> list[str]:
    """Ten people's answers, of which two differ."""
    return [answer] * 8 + ["unknown", f"the {answer}"]


def _save(image: PILImage.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        image.save(path, quality=95)
    else:
        image.save(path)


def _json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content))


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for wrong use."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="a folder that is new or empty")
    parser.add_argument("--count", type=int, default=6, help="samples of each benchmark; default: %(default)s")
    given = parser.parse_args(arguments)
    if given.count < 2:
        parser.error(f"--count is {given.count}; expected 2 or more.")
    try:
        check_directory(given.out, ())
        make_directory(given.out)
        write_all(given.out, given.count)
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    print(f"wrote {given.out}: {given.count} samples of every benchmark, in its official form")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
