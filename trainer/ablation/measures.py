"""What the tables show: scores of the evaluation tasks, two more for several images, and what the paper measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.data.document import Document
from trainer.evaluation.grading import MAX_SHIFTS, Answered, TaskResult
from trainer.evaluation.scores import chance_levels

PER_CENT = 100.0
IN_ASKED_IMAGE = "in_asked_image"
IN_SOME_IMAGE = "in_some_image"


@dataclass(frozen=True)
class Measure:
    """A row of a table."""

    lesson: str
    task: str
    score: str
    label: str
    paper: Mapping[str, str] = field(default_factory=dict)
    """Study to what the paper measured, in words."""


MEASURES = (
    Measure(
        "questions",
        "read",
        "number",
        "the number asked for",
        {
            "mmfs": "22.5 → 27.7 (TextVQA, Table 5a)",
            "visual_tokens": "32 tokens 22.5 → 27.7, 256 tokens 23.6 → 27.8 (TextVQA, Table 5a)",
        },
    ),
    Measure("questions", "read", "some_number", "some number of the image"),
    Measure("questions", "compare", "number_in_image", "the number asked for, of the image asked about"),
    Measure("questions", "compare", IN_ASKED_IMAGE, "some number of the image asked about"),
    Measure(
        "questions",
        "compare",
        IN_SOME_IMAGE,
        "some number of any of the images",
        {"mmfs": "30.7 → 33.1 from one scale and image to several of both (TextVQA with 2 shots, Table 10)"},
    ),
    Measure("questions", "compare", "which_image", "which image has a thing"),
    Measure(
        "label_map",
        "label_map",
        "foreground",
        "overlap with the label map (IoU)",
        {"mmfs": "5.3 → 35.9 (ADE20k mIoU, Table 5c)"},
    ),
    Measure("label_map", "label_map", "sprites", "the right sprites in their places"),
)


@dataclass(frozen=True)
class Level:
    """A score of one run, 0 to 1, with what answers that ignore the document would get."""

    mean: float
    chance: float | None
    num_documents: int


def levels(tasks: Mapping[str, TaskResult]) -> dict[str, dict[str, Level]]:
    """The scores of an evaluation by task and name, with those that only the tables have."""
    found = {
        task: {name: Level(score.mean, score.chance, score.num_documents) for name, score in result.scores.items()}
        for task, result in tasks.items()
    }
    if "compare" in tasks:
        found["compare"] |= where_numbers_stand(tasks["compare"].answered)
    return found


def where_numbers_stand(answered: Sequence[Answered]) -> dict[str, Level]:
    """Of the answers about "image i", how many hold a number of image i, and how many a number of any image; empty if
    no question is of that kind."""
    asked = [one for one in answered if image_asked_about(one.document) is not None]
    chance = chance_levels(
        [one.document for one in asked],
        lambda owner, document: places_of_number(owner.truth["answer"], document),
        max_shifts=MAX_SHIFTS["text"],
    )
    scores = [places_of_number(str(one.answer), one.document) for one in asked]
    return {
        name: Level(sum(its[name] for its in scores) / len(scores), chance.get(name), len(scores))
        for name in (IN_ASKED_IMAGE, IN_SOME_IMAGE)
        if scores
    }


def image_asked_about(document: Document) -> int | None:
    """Which image, from 0, the first question of a document of several asks a number of; None if it asks no such."""
    found = re.search(r"in image (\d+)\?$", document.truth["questions"][0]["text"])
    return int(found.group(1)) - 1 if found else None


def places_of_number(answer: str, document: Document) -> dict[str, float]:
    """Whether the first number of an answer stands in the image that is asked about, and in any: 1 or 0 each."""
    said = re.search(r"\d+", answer)
    images = [{item["number"] for item in image["objects"]} for image in document.truth["images"]]
    holding = [said is not None and int(said.group()) in numbers for numbers in images]
    asked = image_asked_about(document)
    assert asked is not None, f"{document.key} asks for no number"
    return {IN_ASKED_IMAGE: float(holding[asked]), IN_SOME_IMAGE: float(any(holding))}
