"""Data sets as they were published, in small, from their files to the samples of a manifest."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.image_decoding import decode
from trainer.data.index import main
from trainer.data.sources import published
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.problems import Problems
from trainer.data.sources.published import FORMS, files_of, read_published
from trainer.data.sources.tasks import CAPTION_QUESTION

IMAGES = [
    {"id": 9, "file_name": "9.png", "width": 50, "height": 40},
    {"id": 8, "file_name": "8.png", "width": 50, "height": 40},
]
INSTANCES = {
    "images": IMAGES,
    "annotations": [
        {"id": 70, "image_id": 9, "bbox": [5, 8, 10, 16]},
        {"id": 71, "image_id": 8, "bbox": [40, 30, 10.02, 10]},
    ],
}
REFERENCES = [
    {
        "ref_id": 1,
        "ann_id": 70,
        "image_id": 9,
        "split": "train",
        "file_name": "COCO_train2014_000000000009_70.jpg",
        "sentences": [{"sent": "left snail", "sent_id": 5}, {"sent": "the snail", "sent_id": 6}],
    },
    {"ref_id": 2, "ann_id": 71, "image_id": 8, "split": "testA", "sentences": [{"sent": "owl"}]},
    {"ref_id": 3, "ann_id": 99, "image_id": 9, "split": "train", "sentences": [{"sent": "nowhere"}]},
    {"ref_id": 4, "ann_id": [70, 71], "image_id": 9, "split": "train", "sentences": [{"sent": "both"}]},
]
BOX = {"image": "9.png", "box": [5, 8, 15, 24], "width": 50, "height": 40, "as_stored": True}


def write_json(content: Any) -> Callable[[Path], object]:
    return lambda file: file.write_text(json.dumps(content))


def write_pickle(content: Any, protocol: int = 2) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(pickle.dumps(content, protocol))


def write_array(*arguments: Any, **options: Any) -> Callable[[Path], object]:
    return lambda file: np.save(file, np.array(*arguments, **options))


def make(folder: Path, **files: Callable[[Path], object]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, write in files.items():
        write(folder / name)
    return [folder / name for name in files]


def rows_of(form: str, paths: list[Path], split: str = "train") -> tuple[list[dict[str, Any]], list[str]]:
    problems = Problems()
    return [row for _, row in read_published(form, files_of(form, paths), split, problems)], problems.named()


def pororo(folder: Path, folder_mark: str = "") -> Path:
    """Six clips of one film; a story of each of the first two, of a clip without a caption and of one that is not."""
    clips = [f"{folder_mark}Film_1/Film_1_ep1/{number}.png" for number in range(6)]
    captions = {clip.removesuffix(".png"): [f"Clip {n}\nhere ."] for n, clip in enumerate(clips[:5])}
    make(
        folder,
        **{
            "descriptions.npy": write_array(captions, dtype=object),
            "img_cache4.npy": write_array([clip.encode() for clip in clips[:2]]),
            "following_cache4.npy": write_array([[c.encode() for c in clips[n + 1 : n + 5]] for n in range(2)]),
            "train_seen_unseen_ids.npy": write_array([np.array([1, 0, 7]), np.array([], dtype=int), [0]], dtype=object),
        },
    )
    return folder


def flintstones(folder: Path) -> Path:
    """Six clips; two stories, the second with a clip that has no description."""
    clips = [f"s_01_e_01_shot_{number:06}" for number in range(6)]
    make(
        folder,
        **{
            "flintstones_annotations_v1-0.json": write_json(
                [{"globalID": clip, "description": f"Fred {n}."} for n, clip in enumerate(clips[:5])]
            ),
            "following_cache4.pkl": write_pickle({clips[0]: clips[1:5], clips[1]: clips[2:6], clips[2]: clips[3:]}, 4),
            "train-val-test_split.json": write_json({"train": clips, "val": [], "test": clips[:1]}),
        },
    )
    return folder


VIST = [
    [{"story_id": "7", "worker_arranged_photo_order": order, "photo_flickr_id": f"p{order}", "text": f"Part {order}."}]
    for order in (1, 0)
]
PLAIN = {
    "vqav2": (
        (
            {"data_subtype": "val2014", "questions": [{"question_id": 3, "image_id": 9, "question": "What is it?"}]},
            {
                "data_subtype": "val2014",
                "annotations": [
                    {"question_id": 3, "image_id": 9, "multiple_choice_answer": "a snail"},
                    {"question_id": 4},
                ],
            },
        ),
        [{"image": "COCO_val2014_000000000009.jpg", "question": "What is it?", "answer": "a snail", "as_stored": True}],
        ["question 4: There is no 'image_id', or more than one that differ."],
    ),
    "coco_captions": (
        (
            {
                "images": IMAGES,
                "annotations": [{"id": 1, "image_id": 9, "caption": "A snail."}, {"id": 2, "image_id": 0}],
            },
        ),
        [{"image": "9.png", "question": CAPTION_QUESTION, "answer": "A snail.", "as_stored": True}],
        ["caption 2: There is no 0, or more than one that differ."],
    ),
    "llava": (
        ([{"id": "x", "image": "9.png", "conversations": [{"from": "human", "value": "<image>\nHi"}]}, {"id": "y"}],),
        [{"image": "9.png", "conversations": [{"from": "human", "value": "<image>\nHi"}]}],
        ["conversation 1: There is no 'conversations', or more than one that differ."],
    ),
    "mdetr": (
        (
            {
                "images": [{**IMAGES[0], "caption": "left snail"}, {**IMAGES[1], "caption": "owl"}],
                "annotations": [{"image_id": 9, "bbox": [5, 8, 10, 16]}],
            },
        ),
        [{**BOX, "expression": "left snail"}],
        ["image 8: It has 0 boxes; expected one, of what its caption describes."],
    ),
    "vist": (
        ({"annotations": [*VIST, [{"story_id": "8", "worker_arranged_photo_order": "?"}]]},),
        [{"story": [{"text": "Part 0.", "image": "p0.jpg"}, {"text": "Part 1.", "image": "p1.jpg"}]}],
        ["story 8: invalid literal for int() with base 10: '?'"],
    ),
}


@pytest.mark.parametrize("form", PLAIN)
def test_json_becomes_rows_and_what_is_broken_is_named(form, tmp_path):
    contents, rows, problems = PLAIN[form]
    files = make(tmp_path, **{f"{number}.json": write_json(content) for number, content in enumerate(contents)})
    assert rows_of(form, files) == (rows, problems)


@pytest.mark.parametrize(("name", "write"), [("refs(unc).p", write_pickle), ("refs(unc).json", write_json)])
def test_referring_expressions(tmp_path, name, write):
    make(tmp_path, **{name: write(REFERENCES), "instances.json": write_json(INSTANCES)})
    expected = [{**BOX, "expression": "left snail"}, {**BOX, "expression": "the snail"}]
    problems = [
        "reference 3: There is no 99, or more than one that differ.",
        "reference 4: It names 2 things; expected one, which has one box.",
    ]
    assert rows_of("refcoco", [tmp_path]) == (expected, problems)
    assert rows_of("refcoco", [tmp_path / name]) == (expected, problems)
    [[owl], none] = rows_of("refcoco", [tmp_path], "testA")
    assert (owl["box"], none) == ([40, 30, 50, 40], [])


@pytest.mark.parametrize("folder_mark", ["", "/"])
def test_stories_of_pororo(tmp_path, folder_mark):
    rows, problems = rows_of("pororo", [pororo(tmp_path, folder_mark)])
    clip = {"text": "Clip 0 here .", "image": "Film_1/Film_1_ep1/0.png", "strip": True}
    assert [part["text"] for part in rows[0]["story"]] == [f"Clip {number} here ." for number in range(5)]
    assert (len(rows), rows[0]["story"][0]) == (1, clip)
    assert problems == [
        "story 1: There is no 'Film_1/Film_1_ep1/5', or more than one that differ.",
        "story 7: There are 2 stories.",
    ]
    assert rows_of("pororo", [tmp_path], "test") == (rows, [])


def test_stories_of_the_flintstones(tmp_path):
    rows, problems = rows_of("flintstones", [flintstones(tmp_path)])
    images = [part["image"] for part in rows[0]["story"]]
    assert images == [f"video_frames_sampled/s_01_e_01_shot_{number:06}.npy" for number in range(5)]
    assert len(rows) == 1, "a clip that fewer than four follow begins none"
    assert problems == [
        "story s_01_e_01_shot_000001: There is no 's_01_e_01_shot_000005', or more than one that differ."
    ]


def test_a_data_set_is_indexed_from_its_own_folder(tmp_path, shards, capsys):
    """Images lie where the captions do; a frame of a strip is drawn at random when it is read."""
    folder = pororo(tmp_path / "pororo")
    clips = folder / "Film_1" / "Film_1_ep1"
    clips.mkdir(parents=True)
    for number in range(5):
        (clips / f"{number}.png").write_bytes(shards.image_bytes(number, (10, 30)))
    arguments = [str(folder), "--form", "pororo", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--max-broken", "0.5"]) == 2
    assert "2 of 3 samples cannot be used" in capsys.readouterr().err
    assert main([*arguments, "--max-broken", "0.7"]) == 0
    manifest = load_manifest(tmp_path / "out")
    sample = manifest[0]
    assert (len(manifest), sample.texts[1]) == (1, "Clip 1 here .")
    assert all(image.strip and not image.given for image in sample.images)
    strip = decode(sample.images[2].read(), 1000)
    for moment, frame in ((0.0, 0), (0.5, 1), (0.99, 2)):
        decoded = decode(sample.images[2].read(), 1000, moment=moment)
        assert decoded.tobytes() == strip.crop((0, 10 * frame, 10, 10 * frame + 10)).tobytes()
    named = (tmp_path / "out" / "problems.txt").read_text()
    assert "story 7: There are 2 stories." in named


def test_another_split_is_another_data_set(tmp_path, shards):
    make(tmp_path / "refs", **{"refs(unc).p": write_pickle(REFERENCES), "instances.json": write_json(INSTANCES)})
    images = shards.folder("images", {f"{number}.png": shards.image_bytes(number) for number in (8, 9)})
    common = [str(tmp_path / "refs"), "--form", "refcoco", "--images", str(images), "--max-broken", "0.6", "--out"]
    assert main([*common, str(tmp_path / "train"), "--checksums"]) == 0
    assert main([*common, str(tmp_path / "test"), "--split", "testA"]) == 0
    train, test = load_manifest(tmp_path / "train"), load_manifest(tmp_path / "test")
    assert (len(train), len(test)) == (2, 1)
    assert train.fingerprint != test.fingerprint
    assert [sample.texts[-1] for sample in (train[0], test[0])] == ["(100,200)(300,600)", "(800,750)(999,999)"]
    [shard] = train.shards
    assert shard.size_bytes == sum(file.stat().st_size for file in (tmp_path / "refs").iterdir())
    assert len(shard.checksum) == 128


@pytest.mark.parametrize(
    ("form", "name", "write", "split", "sentence"),
    [
        ("vqav2", "a.json", write_json({}), "train", "this is not what vqav2 looks like"),
        ("llava", "a.json", lambda file: file.write_text("{"), "train", "cannot be read"),
        (
            "refcoco",
            "refs(unc).p",
            write_pickle([{"split": "val"}]),
            "train",
            "instances.json is not there; refcoco needs",
        ),
        ("refcoco", "other.p", write_pickle([]), "train", "holds no file refs"),
        ("pororo", "descriptions.npy", write_array(1), "train", "img_cache4.npy is not there"),
    ],
)
def test_other_files_are_told(tmp_path, form, name, write, split, sentence, capsys):
    [file] = make(tmp_path / "data", **{name: write})
    path = file if form in ("vqav2", "llava") else file.parent
    assert main([str(path), "--form", form, "--split", split, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("form", ["refcoco", "pororo", "flintstones"])
def test_a_split_that_is_not_there_is_told(tmp_path, form):
    make(tmp_path, **{"refs(unc).p": write_pickle(REFERENCES), "instances.json": write_json(INSTANCES)})
    flintstones(pororo(tmp_path))
    with pytest.raises(ValueError, match="no split 'dev', only"):
        rows_of(form, [tmp_path], "dev")


def test_every_form_is_explained():
    assert FORMS.keys() == {"refcoco", "pororo", "flintstones", *PLAIN}
    assert all(f"| {form} |" in published.__doc__ for form in FORMS)


def test_frames_of_an_array():
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    for stored in (frames, frames.astype(np.float32)):
        file = io.BytesIO()
        np.save(file, stored)
        for moment, frame in ((0.0, 0), (0.4, 1), (0.999, 2)):
            assert (np.asarray(decode(file.getvalue(), 48, moment=moment)) == frames[frame]).all()
