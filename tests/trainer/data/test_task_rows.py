"""Rows of the fine-tuning tasks, from the table to what is learned of them."""

from __future__ import annotations

import io
from itertools import count
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from models import MMInterleavedConfig
from models.batch import IGNORED
from models.generation.boxes import read_boxes
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.document import Image, Text
from trainer.data.image_decoding import class_colours
from trainer.data.sources.rows import read_row
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.tasks import task_segments

MODEL = MMInterleavedConfig.tiny()
ROWS: dict[str, dict[str, Any]] = {
    "vqa": {"image": "a.png", "question": "What is it?", "answer": "a snail"},
    "rec": {"image": "a.png", "expression": "the left snail", "bbox": [5, 8, 10, 16], "width": 50, "height": 40},
    "seg2img": {"label_map": "map.png", "caption": "a snail", "image": "a.png"},
    "story": {"story": [{"text": "It sleeps.", "image": "a.png"}, {"text": "It wakes.", "image": "b.png"}]},
    "instruct": {
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A snail.\nIt sleeps."},
            {"from": "human", "value": "Draw another one."},
            {"from": "gpt", "value": "Here:\n<image>"},
        ],
    },
}


@pytest.fixture
def stream(shards):
    """The stream of a table with one row; the label map has the classes 1 and 2, left and right."""
    classes = np.repeat(np.array([[1, 2]], dtype=np.uint8), 20, axis=1).repeat(40, axis=0)
    file = io.BytesIO()
    PILImage.fromarray(classes).save(file, "PNG")
    film = io.BytesIO()
    np.save(film, np.repeat(np.array([10, 20, 30], np.uint8), 8 * 8 * 3).reshape(3, 8, 8, 3))
    encoded = {
        "a.png": shards.image_bytes(1),
        "b.png": shards.image_bytes(2),
        "map.png": file.getvalue(),
        "film.npy": film.getvalue(),
    }
    images, numbers = shards.folder("images", encoded), count()

    def make(row: dict[str, Any], **rules: Any) -> CorpusStream:
        manifest = shards.manifest(shards.jsonl(f"rows-{next(numbers)}.jsonl", [row]), images=[images])
        return CorpusStream(
            CorpusConfig({"task": SourceConfig(manifest, **rules)}, num_rows=1, row_tokens=256), MODEL, seed=0
        )

    return make


def learned(stream: CorpusStream) -> str:
    """What of the first document carries a loss, special tokens included."""
    tokens = stream.row(0, 0).documents[0]
    ids = [target for target in tokens.targets if target != IGNORED]
    return stream.config.tokenizer().decode(ids, skip_special_tokens=False)


def in_words(stream: CorpusStream) -> str:
    """The first document, with marks for its images."""
    document = next(stream.documents(0, 0))
    marks = {(False, False): "[seen]", (True, True): "[drawn]"}
    return "".join(s.text if isinstance(s, Text) else marks[s.draw, s.placed] for s in document.segments)


@pytest.mark.parametrize(
    ("task", "words", "answer"),
    [
        (
            "vqa",
            "Based on the image, please answer the question. [seen]What is it? Please provide an accurate answer "
            "within one word. The answer is: a snail",
            " a snail</s>",
        ),
        (
            "rec",
            "[seen] Provide the bounding box coordinate of the region this sentence describes: the left snail. "
            "(100,200)(300,600)",
            " (100,200)(300,600)</s>",
        ),
        ("seg2img", "[seen]a snail[drawn]", "<BoI></s>"),
        ("story", "It sleeps.[drawn]It wakes.[drawn]", "<BoI><BoI></s>"),
        (
            "instruct",
            "USER:[seen] What is it? ASSISTANT: A snail.\nIt sleeps. USER: Draw another one. ASSISTANT: Here:[drawn]",
            " A snail.\nIt sleeps.</s> Here:<BoI></s>",
        ),
    ],
)
def test_only_the_answer_is_learned(stream, task, words, answer):
    made = stream(ROWS[task], fit="squeeze")
    assert in_words(made) == words
    assert learned(made) == answer
    batch = made(0)
    assert len(batch.drawn) == words.count("[drawn]") * len(made.row(0, 0).documents)


def test_label_maps_get_the_colours_of_their_classes_unmixed(stream):
    first, *_ = next(stream(ROWS["seg2img"]).documents(0, 0)).segments
    assert isinstance(first, Image)
    assert first.target is None
    colours = {tuple(colour) for colour in first.pixels.reshape(-1, 3).tolist()}
    assert colours == {tuple(class_colours()[1].tolist()), tuple(class_colours()[2].tolist())}
    assert len({tuple(colour) for colour in class_colours().tolist()}) == 256


def test_squeezed_images_are_whole_and_mirrored_ones_agree_with_their_boxes(stream):
    cropped, whole = (stream(ROWS["rec"], fit=fit) for fit in ("crop", "squeeze"))
    left, right = (next(made.documents(0, 0)).segments[0].pixels for made in (cropped, whole))
    assert left.shape == right.shape
    assert not np.array_equal(left, right)
    flipped = stream(ROWS["rec"], fit="squeeze", flip=True)
    seen = {
        document.segments[-1].text: document.segments
        for step in range(8)
        for document, _ in zip(flipped.documents(step, 0), range(2), strict=False)
    }
    assert seen.keys() == {" (100,200)(300,600)", " (700,200)(900,600)"}
    image, question, _ = seen[" (700,200)(900,600)"]
    np.testing.assert_array_equal(image.pixels, right[:, ::-1])
    assert "the right snail" in question.text


def painted_box(pixels: np.ndarray) -> tuple[float, ...]:
    """Left, top, right and bottom of the red, as shares of the image."""
    red = (pixels == (255, 0, 0)).all(axis=2)
    edges = [np.flatnonzero(red.any(axis=axis)) for axis in (0, 1)]
    (x1, x2), (y1, y2) = ((edge.min() / len(red), (edge.max() + 1) / len(red)) for edge in edges)
    return x1, y1, x2, y2


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("fit", ["crop", "squeeze"])
@pytest.mark.parametrize("wh", [(128, 64), (64, 96), (64, 64)])
@pytest.mark.parametrize("corners", [(40, 16, 64, 56), (36, 4, 48, 32), (16, 20, 56, 44)])
def test_a_box_is_where_the_thing_is_however_the_image_was_fitted(shards, wh, fit, flip, corners):
    """The thing is painted red; at least half of it is in every crop."""
    canvas = PILImage.new("RGB", wh, "white")
    canvas.paste((255, 0, 0), corners)
    file = io.BytesIO()
    canvas.save(file, "PNG")
    images = shards.folder("images", {"a.png": file.getvalue()})
    row = {"image": "a.png", "expression": "red", "box": corners, "width": wh[0], "height": wh[1]}
    manifest = shards.manifest(shards.jsonl("rows.jsonl", [row]), images=[images])
    config = CorpusConfig({"rec": SourceConfig(manifest, fit=fit, flip=flip)}, num_rows=1, row_tokens=256)
    stream = CorpusStream(config, MODEL, seed=0)
    for step in range(4):
        image, _, answer = next(stream.documents(step, 0)).segments
        [box] = read_boxes(answer.text)
        assert box == pytest.approx(painted_box(image.pixels), abs=1.5 / 32), "of a pixel and its blurred edge"


def test_a_sample_whose_thing_is_cropped_away_is_dropped(shards):
    images = shards.folder("images", {"a.png": shards.image_bytes(0, (100, 50))})
    rows = [
        {"image": "a.png", "expression": f"{x}", "bbox": [x, 10, 20, 10], "width": 100, "height": 50}
        for x in (0, 14, 16, 40)
    ]
    manifest = shards.manifest(shards.jsonl("rows.jsonl", rows), images=[images])
    stream = CorpusStream(CorpusConfig({"rec": SourceConfig(manifest)}, num_rows=1, row_tokens=256), MODEL, seed=0)
    seen = {next(stream.documents(step, 0)).segments[-1].text for step in range(12)}
    assert seen == {" (000,200)(220,400)", " (300,200)(700,400)"}
    web = {"segments": [{"image": "a.png"}, {"text": "Not a box: (000,200)(100,400)"}]}
    manifest = shards.manifest(shards.jsonl("web.jsonl", [web]), images=[images])
    stream = CorpusStream(CorpusConfig({"web": SourceConfig(manifest)}, num_rows=1, row_tokens=256), MODEL, seed=0)
    assert next(stream.documents(0, 0)).segments[-1].text == " Not a box: (000,200)(100,400)"


def test_each_visit_of_a_film_takes_a_frame(stream):
    """An image of 50 x 40 px has one; the array has three."""
    story = {
        "story": [{"text": "It sleeps.", "image": "a.png"}, {"text": "It wakes.", "image": "film.npy", "strip": True}]
    }
    made = stream(story)
    targets = {next(made.documents(step, 0)).segments[3].target.tobytes() for step in range(20)}
    frames = {
        np.full((MODEL.image_decoder.image_size,) * 2 + (3,), value, np.uint8).tobytes() for value in (10, 20, 30)
    }
    assert targets == frames
    one = next(made.documents(3, 0)).segments[3].target
    assert (next(made.documents(3, 0)).segments[3].target == one).all()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**ROWS["vqa"], "answer": " "}, "The answer is empty"),
        ({**ROWS["vqa"], "image": "none.png"}, "The image 'none.png' is not there"),
        ({"question": "What?", "answer": "a"}, "unexpected form: KeyError: 'image'"),
        ({**ROWS["rec"], "bbox": [45, 0, 10, 10]}, "corners .45.0, 0.0, 55.0, 10.0.; expected shares"),
        ({"image": "a.png", "expression": "it", "box": [10, 10, 20, 20]}, "beside its width and height"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "Turn 0 is from 'gpt'; expected 'human'"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "The chat has 1 turns"),
        ({**ROWS["instruct"], "image": "a.png"}, "more places for images"),
        ({**ROWS["instruct"], "image": ["a.png"] * 3}, "more images than places"),
    ],
)
def test_rows_of_another_form_are_named(row, sentence):
    with pytest.raises(BrokenSampleError, match=sentence):
        read_row(row, lambda name: None if name == "none.png" else ("x", 0, 1))


def test_a_box_may_be_given_as_shares():
    assert task_segments({"image": "a", "expression": "it", "box": [0.1, 0.2, 0.3, 0.4]})[-1]["text"] == (
        "(100,200)(300,400)"
    )


def on_its_side(orientation: int = 6) -> bytes:
    """A photograph that is stored lying: upright, 40 wide and 60 high, it is red above and blue below."""
    upright = PILImage.new("RGB", (40, 60), "blue")
    upright.paste((255, 0, 0), (0, 0, 40, 30))
    back = {6: PILImage.Transpose.ROTATE_90, 3: PILImage.Transpose.ROTATE_180}[orientation]
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    upright.transpose(back).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("about", "orientation", "first_row_is_red", "is_turned"),
    [
        ({"box": [0, 0, 1, 0.5]}, 6, True, True),  # shares, of the image as it is seen
        ({"box": [0, 0, 40, 30], "width": 40, "height": 60}, 6, True, True),
        ({"box": [0, 0, 30, 40], "width": 60, "height": 40}, 6, True, False),  # of the stored one: red is on the left
        ({"box": [0, 0, 40, 30], "width": 40, "height": 60}, 3, True, True),
        ({"box": [0, 30, 40, 60], "width": 40, "height": 60, "as_stored": True}, 3, False, False),
        ({"box": [0, 0, 20, 15], "width": 20, "height": 30}, 6, True, True),  # of another size of the same image
    ],
)
def test_an_image_lies_as_its_boxes_say(shards, about, orientation, first_row_is_red, is_turned):
    images = shards.folder("images", {"a.png": on_its_side(orientation)})
    row = {"image": "a.png", "expression": "the red half", **about}
    manifest = shards.manifest(shards.jsonl("rows.jsonl", [row]), images=[images])
    config = CorpusConfig({"task": SourceConfig(manifest, fit="squeeze")}, num_rows=1, row_tokens=256)
    document = next(CorpusStream(config, MODEL, seed=0).documents(0, 0))
    [image] = [segment for segment in document.segments if isinstance(segment, Image)]
    [box] = read_boxes("".join(segment.text for segment in document.segments if isinstance(segment, Text)))
    side = len(image.pixels)
    left, top, right, bottom = (round(edge * side) for edge in box)
    assert (image.pixels[top + 2 : bottom - 2, left + 2 : right - 2] == (255, 0, 0)).all(), "the box holds what is red"
    assert (image.pixels[0, 0] == (255, 0, 0)).all() == first_row_is_red
    assert (image.pixels[0, -1] == image.pixels[0, 0]).all() == (is_turned or orientation == 3)


def test_a_label_map_lies_on_its_image(shards):
    classes = np.repeat(np.array([[1], [2]], dtype=np.uint8), 20, axis=0).repeat(60, axis=1)
    file = io.BytesIO()
    PILImage.fromarray(classes).save(file, "PNG")
    images = shards.folder("images", {"a.png": on_its_side(), "map.png": file.getvalue()})
    row = {"label_map": "map.png", "caption": "a half", "image": "a.png"}
    manifest = shards.manifest(shards.jsonl("rows.jsonl", [row]), images=[images])
    config = CorpusConfig({"task": SourceConfig(manifest, fit="squeeze")}, num_rows=1, row_tokens=256)
    document = next(CorpusStream(config, MODEL, seed=0).documents(0, 0))
    _, drawn = [segment for segment in document.segments if isinstance(segment, Image)]
    assert (drawn.pixels[:, 0] == (255, 0, 0)).all(), "as it is stored: red is on the left"
