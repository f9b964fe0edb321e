"""Answers that search in writing are true, and stop where the thing stands: checked against boxes and numbers."""

import re
from itertools import pairwise

import pytest

from trainer.data.document import Document, Text
from trainer.data.emoji.tasks import STEP_FAMILIES, TaskOptions, documents

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
READING_ORDER = [f"{row} {column}".strip() or "middle" for row in ROWS for column in COLUMNS]
QUARTERS = ["top left", "top right", "bottom left", "bottom right"]


def texts(document: Document) -> list[str]:
    return [segment.text for segment in document.segments if isinstance(segment, Text)]


def place_of(thing: dict, grid: int) -> str:
    left, top, right, bottom = thing["box_px"]
    # boxes are tight and places belong to squares, so the middle is told from the cells' middles
    cells = [(row, column) for row in range(grid) for column in range(grid)]
    middle = [64 * (cell + 0.5) / grid for cell in range(grid)]
    row, column = min(
        cells, key=lambda cell: abs(middle[cell[0]] - (top + bottom) / 2) + abs(middle[cell[1]] - (left + right) / 2)
    )
    return (READING_ORDER if grid == 3 else QUARTERS)[grid * row + column]


@pytest.mark.parametrize("split", ["train", "val"])
def test_reading_goes_from_place_to_place_and_ends_at_the_sprite_asked_for(split) -> None:
    for document in documents("read_steps", split, 0, 60):
        (facts,) = document.truth["images"]
        things = {place_of(thing, 3): thing for thing in facts["objects"]}
        assert len(things) == len(facts["objects"])
        walk = [place for place in READING_ORDER if place in things]
        for question, answer in pairwise(texts(document)):
            if not question.endswith("? step by step"):
                continue
            name = question.removeprefix(" which number is under the ").removesuffix("? step by step")
            last = next(number for number, place in enumerate(walk, 1) if things[place]["name"] == name)
            said = ", ".join(f"{place} {things[place]['name']}" for place in walk[:last])
            assert answer == f" {said}: {things[walk[last - 1]]['number']}"


def test_grounding_goes_from_left_to_right_and_ends_with_the_papers_box() -> None:
    for document in documents("ground_steps", "train", 0, 100):
        (facts,) = document.truth["images"]
        _, answer = texts(document)
        steps, box = re.fullmatch(r" (.*): (\(\d{3},\d{3}\)\(\d{3},\d{3}\))", answer).groups()
        assert list(map(int, re.findall(r"\d{3}", box))) == document.truth["box"]
        walked = re.findall(r"(\d)(\d) ([^,]+)", steps)
        assert [name for _, _, name in walked][-1] == document.truth["name"]
        assert [int(column) for column, _, _ in walked] == sorted(int(column) for column, _, _ in walked)
        for column, row, name in walked:
            (thing,) = [thing for thing in facts["objects"] if thing["name"] == name]
            left, top, right, bottom = thing["box_px"]
            # the square's middle may lie beside that of the tight box by a few pixels
            assert abs((int(column) + 0.5) * 6.4 - (left + right) / 2) < 8
            assert abs((int(row) + 0.5) * 6.4 - (top + bottom) / 2) < 8
        to_the_left = {thing["name"] for thing in facts["objects"]} - {name for _, _, name in walked}
        for name in to_the_left:  # what was not named stands no farther left than the one asked for
            (thing,) = [thing for thing in facts["objects"] if thing["name"] == name]
            assert (thing["box_px"][0] + thing["box_px"][2]) / 2 > int(walked[-1][0]) * 6.4 - 8


def test_comparing_goes_through_one_image_or_image_after_image() -> None:
    lengths = set()
    for document in documents("compare_steps", "train", 0, 150):
        scenes = [{place_of(thing, 2): thing for thing in facts["objects"]} for facts in document.truth["images"]]
        for question in document.truth["questions"]:
            steps, answer = question["answer"].split(": ")
            visited = re.findall(r"image (\d) ((?:(?!, image).)*)", steps)
            walked = [(int(number), part) for number, parts in visited for part in parts.split(", ")]
            lengths.add(len(visited))
            for number, part in walked:
                place = next(place for place in QUARTERS if part.startswith(place))
                assert scenes[number - 1][place]["name"] == part.removeprefix(place).strip()
            if asked := re.match(r" which number is under the (.*) in image (\d)\? step by step", question["text"]):
                name, number = asked.groups()
                assert [image for image, _ in visited] == [number]
                assert walked[-1][1].endswith(name)
                (thing,) = [one for one in scenes[int(number) - 1].values() if one["name"] == name]
                assert answer == str(thing["number"])
            else:
                name = re.fullmatch(r" which image has (?:an? )?(.*)\? step by step", question["text"]).group(1)
                assert [int(image) for image, _ in visited] == list(range(1, int(answer) + 1))
                assert walked[-1][1].endswith(name)
    assert lengths == {1, 2, 3, 4}


@pytest.mark.parametrize("family", ["label_map_steps", "story_steps", "arrange_steps"])
def test_what_is_written_before_an_image_names_all_that_stands_in_it(family) -> None:
    for document in documents(family, "train", 0, 60):
        shown = [facts for facts in document.truth["images"] if facts is not None]
        plans = [plan for request, plan in pairwise(texts(document)) if request.endswith("step by step")]
        assert len(plans) == len(shown)
        for plan, facts in zip(plans, shown, strict=True):
            steps, colour = re.fullmatch(r" (.*) on an? (\w+) background", plan).groups()
            assert colour == facts["background"]
            names = {thing["name"]: thing for thing in facts["objects"]}
            assert len(steps.split(", ")) == len(names)
            for step in steps.split(", "):
                if family in ("story_steps", "arrange_steps"):
                    place = next(place for place in QUARTERS if step.startswith(place))
                    assert place_of(names[step.removeprefix(place).strip()], 2) == place
                else:
                    assert re.fullmatch(r"\d\d (.*)", step).group(1) in names


@pytest.mark.parametrize("family", STEP_FAMILIES)
def test_documents_fit_into_the_rows_of_the_smallest_recipe(family) -> None:
    from trainer.data.emoji.tokenizer import load_tokenizer
    from trainer.recipes.toy import toy_scratch

    config = toy_scratch()
    tokens_of_an_image = 1 + config.model.visual_tokenizer.num_visual_tokens
    options = TaskOptions(config.data.num_concepts, 64, config.data.num_sprites)
    tokenizer = load_tokenizer()
    for document in documents(family, "train", 0, 200, options=options):
        num = sum(
            len(tokenizer.encode(segment.text).ids) if isinstance(segment, Text) else tokens_of_an_image
            for segment in document.segments
        )
        assert num + 2 <= config.data.row_tokens
