"""Documents tell the truth: texts are checked against pixels and boxes, not against the code that wrote them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from trainer.data.document import Document, Image, Text, prompt_of
from trainer.data.emoji.atlas import sprite_pixels, sprites
from trainer.data.emoji.compositions import is_held_out
from trainer.data.emoji.digits import DIGITS
from trainer.data.emoji.tasks import TASKS, TaskOptions, documents
from trainer.data.emoji.world import COLOUR_NAMES, COLOURS, INK, label_colours

NAME = r"(?:an? )?([\w-]+(?: [\w-]+)*?)"
NAMES = [sprite.name for sprite in sprites()]
DIGIT_OF = {shape.tobytes(): digit for digit, shape in enumerate(DIGITS)}


def texts(document: Document) -> list[str]:
    return [segment.text for segment in document.segments if isinstance(segment, Text)]


def images(document: Document) -> list[np.ndarray]:
    return [segment.pixels for segment in document.segments if isinstance(segment, Image)]


def box_of(facts: dict, name: str) -> list[int]:
    (box,) = [thing["box_px"] for thing in facts["objects"] if thing["name"] == name]
    return box


def background(pixels: np.ndarray) -> str:
    """The named colour that most pixels are nearest to."""
    distances = abs(pixels[:, :, None].astype(int) - np.array(list(COLOURS.values()))).sum(-1)
    near = distances.min(-1) <= 3 * 24  # the gradient; sprites' own pixels mostly fall out
    return COLOUR_NAMES[np.bincount(distances.argmin(-1)[near], minlength=8).argmax()]


def printed_number(pixels: np.ndarray, box: list[int]) -> str:
    """The two digits nearest below a box, found in the pixels by their shape."""
    ink = (pixels == INK).all(-1)
    middle = (box[0] + box[2]) / 2
    found = []
    for y in range(box[3], min(box[3] + 10, 64 - 5)):
        for x in range(max(int(middle) - 10, 0), min(int(middle) + 3, 64 - 8)):
            cells = ink[y : y + 6, x : x + 4], ink[y : y + 6, x + 5 : x + 9]
            digits = [DIGIT_OF.get(cell.tobytes()) for cell in cells]
            if None not in digits:
                found.append((y, "".join(map(str, digits))))
    return min(found)[1]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_documents_are_pure_functions_and_differ(task, split):
    once, again = documents(task, split, 5, 8), documents(task, split, 5, 8)
    for a, b in zip(once, again, strict=True):
        assert (a.key, a.prompt, a.truth, texts(a)) == (b.key, b.prompt, b.truth, texts(b))
        assert a.key == f"emoji/{task}/{split}/{5 + once.index(a)}"
        for x, y in zip(images(a), images(b), strict=True):
            np.testing.assert_array_equal(x, y)
    assert documents(task, split, 7, 1)[0].truth == once[2].truth
    assert len({str(document.truth) for document in once}) > 4
    assert str(documents(task, split, 5, 8, seed=1)[0].truth) != str(once[0].truth)


DIGEST = """
import hashlib
from trainer.data.document import Image
from trainer.data.emoji.tasks import TASKS, documents
for task in TASKS:
    for document in documents(task, "train", 0, 4):
        for segment in document.segments:
            content = segment.pixels.tobytes() if isinstance(segment, Image) else segment.text.encode()
            print(hashlib.sha256(content).hexdigest())
"""


def test_another_process_makes_the_same_documents():
    made = subprocess.run(
        [sys.executable, "-c", DIGEST],
        cwd=Path(__file__).parents[4],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [
        hashlib.sha256(part.pixels.tobytes() if isinstance(part, Image) else part.text.encode()).hexdigest()
        for task in TASKS
        for document in documents(task, "train", 0, 4)
        for part in document.segments
    ]
    assert made.stdout.split() == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_compositions_are_only_in_validation(task, split):
    for document in documents(task, split, 0, 150):
        held_out = [
            is_held_out(COLOUR_NAMES.index(facts["background"]), [thing["sprite"] for thing in facts["objects"]])
            for facts in document.truth["images"]
            if facts is not None
        ]
        assert any(held_out) == (split == "val"), document.key


@pytest.mark.parametrize("task", TASKS)
def test_images_have_the_asked_size_and_the_background_that_truth_names(task):
    for document in documents(task, "train", 0, 20, options=TaskOptions(image_side=128)):
        assert all(pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8 for pixels in images(document))
    for document in documents(task, "train", 0, 40):
        for facts, pixels in zip(document.truth["images"], images(document), strict=True):
            assert facts is None or background(pixels) == facts["background"], document.key


def test_captions_are_true():
    kinds = set()
    for document in documents("caption", "val", 0, 300):
        (facts,) = document.truth["images"]
        assert texts(document) == [" a photo of", " " + document.truth["answer"]]
        assert [segment for segment in prompt_of(document)] == list(document.segments[:2])
        words, colour = re.fullmatch(r"(.*) on an? (\w+) background", document.truth["answer"]).groups()
        assert colour == facts["background"]
        if match := re.fullmatch(f"{NAME} between {NAME} and {NAME}", words):
            middle, first, last = (box_of(facts, name) for name in match.groups())
            assert first[2] <= middle[0]
            assert middle[2] <= last[0]
            kinds.add("between")
        elif match := re.fullmatch(f"{NAME} left of {NAME}", words):
            left, right = (box_of(facts, name) for name in match.groups())
            assert left[2] <= right[0]
            kinds.add("left")
        elif " above " in words:
            column = [box_of(facts, re.fullmatch(NAME, name)[1]) for name in words.split(" above ")]
            assert len(column) == len(facts["objects"])
            assert all(upper[3] <= lower[1] for upper, lower in pairwise(column))
            kinds.add("above")
        else:
            assert [thing["name"] for thing in facts["objects"]] == [re.fullmatch(NAME, words)[1]]
            kinds.add("single")
    assert kinds == {"between", "left", "above", "single"}


def test_some_captions_to_learn_from_show_strangers_and_teach_the_background_alone():
    shown, num_concepts = [], TaskOptions().num_concepts
    for document in documents("caption", "train", 0, 300):
        said = " " + document.truth["answer"]
        if texts(document) == [" a photo of", said]:
            assert all(thing["sprite"] < num_concepts for thing in document.truth["images"][0]["objects"])
            continue
        _, names, background = document.segments[1:]
        assert not names.loss
        assert background.loss
        assert said == names.text + background.text
        assert re.fullmatch(r" on an? \w+ background", background.text)
        assert any(sprite.name in names.text for sprite in sprites()[:num_concepts])
        shown.append({thing["sprite"] for thing in document.truth["images"][0]["objects"]})
    assert 60 < len(shown) < 120
    assert len(set.union(*shown)) > 3 * num_concepts


def test_a_drawn_big_sprite_is_the_named_one():
    names = set()
    for document in documents("draw", "train", 0, 60):
        match = re.fullmatch(r"a big (.*) on an? (\w+) background", texts(document)[0])
        if match is None:
            continue
        pixels = images(document)[0][6:58, 6:58].astype(float)
        errors = []
        for sprite in range(32):
            colour, alpha = sprite_pixels(sprite, 52, False)
            shown = colour / 255 + (1 - alpha / 255) * np.array(COLOURS[match[2]])
            errors.append(abs(shown - pixels).mean())
        assert NAMES[int(np.argmin(errors))] == match[1]
        assert min(errors) < 1
        names.add(match[1])
    assert len(names) > 10


@pytest.mark.parametrize("task", ["draw", "story", "arrange"])
def test_images_to_draw_are_functions_of_the_text_so_far(task):
    drawn: dict[str, bytes] = {}
    repeated = 0
    for document in documents(task, "train", 0, 600, options=TaskOptions(num_concepts=8)):
        words = ""
        for segment in document.segments:
            if isinstance(segment, Text):
                words += segment.text
                continue
            repeated += words in drawn
            assert drawn.setdefault(words, segment.pixels.tobytes()) == segment.pixels.tobytes()
    assert repeated > 100


def test_sprites_to_draw_are_large_enough_for_32_pixels():
    for task in ("draw", "story", "arrange"):
        for document in documents(task, "train", 0, 100):
            for facts in document.truth["images"]:
                for thing in facts["objects"]:
                    x1, y1, x2, y2 = thing["box_px"]
                    assert max(x2 - x1, y2 - y1) >= 28


def test_the_numbers_to_read_are_printed_under_the_sprites_asked_for():
    for split in ("train", "val"):
        for document in documents("read", split, 0, 60):
            (facts,), (pixels,) = document.truth["images"], images(document)
            assert 4 <= len(facts["objects"]) <= 9
            asked = texts(document)
            questions = document.truth["questions"]
            assert len(asked) == 2 * len(questions) == 8
            assert document.prompt == 2
            for question, answer, truth in zip(asked[::2], asked[1::2], questions, strict=True):
                assert question == f" which number is under the {truth['name']}?"
                assert answer == " " + truth["answer"]
                box = box_of(facts, truth["name"])
                assert answer == f" {place_in_words(box, 3)}: {printed_number(pixels, box)}"
            for segment in document.segments[1::2]:
                assert not segment.loss


def place_in_words(box, grid: int) -> str:
    """Where the middle of a box lies on a grid of 2 x 2 or 3 x 3 cells."""
    x, y = (int((box[axis] + box[axis + 2]) / 2 / 64 * grid) for axis in (0, 1))
    words = {2: (["top", "bottom"], ["left", "right"]), 3: (["top", "", "bottom"], ["left", "", "right"])}[grid]
    return f"{words[0][y]} {words[1][x]}".strip() or "middle"


@pytest.mark.parametrize("most", [1, 3, 5])
def test_the_number_of_sprites_to_read_can_be_small(most):
    counts = {
        len(document.truth["images"][0]["objects"])
        for document in documents("read", "train", 0, 60, options=TaskOptions(num_sprites=most))
    }
    assert counts == set(range(min(4, most), most + 1))


def test_label_maps_show_the_silhouettes_of_the_scene():
    colours = {tuple(colour): index for index, colour in enumerate(label_colours().tolist())}
    for document in documents("label_map", "train", 0, 60):
        none, facts = document.truth["images"]
        assert none is None
        labels = images(document)[0]
        assert [segment.draw for segment in document.segments if isinstance(segment, Image)] == [False, True]
        for thing in facts["objects"]:
            rows, columns = np.nonzero((labels == label_colours()[thing["sprite"]]).all(-1))
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == thing["box_px"]
        shown = {tuple(colour) for colour in labels.reshape(-1, 3).tolist()} - {(0, 0, 0)}
        assert {colours[colour] for colour in shown} == {thing["sprite"] for thing in facts["objects"]}
        named = re.fullmatch(r" (.*) on an? (\w+) background", texts(document)[0])
        assert [re.fullmatch(NAME, words)[1] for words in re.split(", | and ", named[1])] == [
            thing["name"] for thing in facts["objects"]
        ]


def test_grounding_answers_are_boxes_in_the_papers_format():
    for document in documents("ground", "train", 0, 100):
        (facts,) = document.truth["images"]
        question, answer = texts(document)
        name = re.fullmatch(
            r" Provide the bounding box coordinate of the region this sentence describes: the (.*)\.", question
        )[1]
        match = re.fullmatch(r" \((\d{3}),(\d{3})\)\((\d{3}),(\d{3})\)", answer)
        coordinates = [int(number) for number in match.groups()]
        np.testing.assert_allclose(np.array(coordinates) * 64 / 1000, box_of(facts, name), atol=0.07)
        assert coordinates == document.truth["box"]


def test_questions_over_several_images_have_one_right_answer():
    for document in documents("compare", "train", 0, 80):
        facts = document.truth["images"]
        assert 2 <= len(facts) <= 4
        assert not any(segment.draw for segment in document.segments if isinstance(segment, Image))
        assert document.prompt == 2 * len(facts) + 1
        numbers = [thing["number"] for one in facts for thing in one["objects"]]
        assert len(set(numbers)) == len(numbers) == 2 * len(facts)
        assert document.segments[document.prompt].text == " " + document.truth["answer"]
        for question in document.truth["questions"]:
            if match := re.fullmatch(r" which number is under the (.*) in image (\d)\?", question["text"]):
                place = int(match[2]) - 1
                box = box_of(facts[place], match[1])
                number = printed_number(images(document)[place], box)
                assert question["answer"] == f"{place_in_words(box, 2)}: {number}"
            else:
                name = re.fullmatch(rf" which image has {NAME}\?", question["text"])[1]
                having = [1 + i for i, one in enumerate(facts) if name in [thing["name"] for thing in one["objects"]]]
                assert having == [int(question["answer"])]


def test_stories_follow_their_sentences():
    kinds = set()
    for document in documents("story", "train", 0, 150):
        stage: dict[str, tuple[int, int]] = {}  # name -> (column, row) of its quarter
        colour = None
        steps = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
        for sentence, facts in zip(texts(document), document.truth["images"], strict=True):
            if match := re.fullmatch(r" ?the background turns (\w+)", sentence):
                assert colour != match[1]
                colour = match[1]
            elif match := re.fullmatch(r" the (.*) moves (\w+)", sentence):
                stage[match[1]] = tuple(a + b for a, b in zip(stage[match[1]], steps[match[2]], strict=True))
            else:
                match = re.fullmatch(
                    f" ?{NAME} (appears )?at the (top|bottom) (left|right)(?: on an? (\\w+) background)?", sentence
                )
                assert match[1] not in stage
                stage[match[1]] = (int(match[4] == "right"), int(match[3] == "bottom"))
                colour = match[5] or colour
            kinds.add(sentence.split()[-2])
            assert facts["background"] == colour
            assert {thing["name"] for thing in facts["objects"]} == set(stage)
            assert len(set(stage.values())) == len(stage)
            for name, (column, row) in stage.items():
                x1, y1, x2, y2 = box_of(facts, name)
                assert 32 * column <= x1 < x2 <= 32 * column + 32
                assert 32 * row <= y1 < y2 <= 32 * row + 32
    assert {"turns", "moves"} <= kinds


@pytest.mark.parametrize("task", ["arrange", "arrange_steps"])
def test_what_is_asked_for_by_places_stands_there(task):
    counts = set()
    for document in documents(task, "train", 0, 60):
        (facts,), words = document.truth["images"], texts(document)[0].removesuffix(" step by step")
        assert (words != texts(document)[0]) == (task == "arrange_steps")
        places = re.sub(r" on an? \w+ background", "", words).split(" and ")
        found = [re.fullmatch(f"{NAME} at the (top|bottom) (left|right)", place).groups() for place in places]
        for name, row, column in found:
            x1, y1, x2, y2 = box_of(facts, name)
            assert (y2 <= 32, x2 <= 32) == (row == "top", column == "left")
            assert (y1 >= 32, x1 >= 32) == (row == "bottom", column == "right")
        assert len(found) == len(facts["objects"])
        counts.add(len(found))
    assert counts == {1, 2}


def test_unknown_families_and_splits_are_refused():
    with pytest.raises(ValueError, match="'poem'"):
        documents("poem", "train", 0, 1)
    with pytest.raises(ValueError, match="'test'"):
        documents("read", "test", 0, 1)
