"""What the tables show: scores of the evaluation tasks, and what the paper measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.evaluation.grading import TaskResult

PER_CENT = 100.0


@dataclass(frozen=True)
class Measure:
    """A row of a table."""

    lesson: str
    task: str
    score: str
    label: str
    paper: Mapping[str, str] = field(default_factory=dict)
    """Study to what the paper measured, in words."""


READING_IN_THE_PAPER = {
    "mmfs": "22.5 → 27.7 (TextVQA, Table 5a)",
    "visual_tokens": "32 tokens 22.5 → 27.7, 256 tokens 23.6 → 27.8 (TextVQA, Table 5a)",
}
SEVERAL_IMAGES_IN_THE_PAPER = {
    "mmfs": "30.7 → 33.1 from one scale and image to several of both (TextVQA with 2 shots, Table 10)"
}


def _of_reading(lesson: str, task: str) -> tuple[Measure, ...]:
    return (
        Measure(lesson, task, "number", "the number asked for", READING_IN_THE_PAPER),
        Measure(lesson, task, "some_number", "some number of the image"),
    )


def _of_several_images(lesson: str, task: str) -> tuple[Measure, ...]:
    return (
        Measure(
            lesson,
            task,
            "number_in_image",
            "the number asked for, of the image asked about",
            SEVERAL_IMAGES_IN_THE_PAPER,
        ),
        Measure(lesson, task, "in_asked_image", "some number of the image asked about"),
        Measure(lesson, task, "some_number", "some number of any of the images"),
        Measure(lesson, task, "which_image", "which image has a thing"),
    )


def _of_search(lesson: str, task: str) -> Measure:
    return Measure(lesson, task, "search", "every word of the search")


MEASURES = (
    *_of_reading("search", "read_steps"),
    _of_search("search", "read_steps"),
    *_of_reading("search_images", "read_steps"),
    _of_search("search_images", "read_steps"),
    *_of_several_images("search_images", "compare_steps"),
    _of_search("search_images", "compare_steps"),
    *_of_reading("questions", "read"),
    *_of_several_images("questions", "compare"),
    Measure(
        "label_map",
        "label_map",
        "foreground",
        "overlap with the label map (IoU)",
        {"mmfs": "5.3 → 35.9 (ADE20k mIoU, Table 5c)"},
    ),
    Measure("label_map", "label_map", "scene", "the whole scene right"),
    Measure("label_map", "label_map", "sprites_in_place", "the right sprites in their places, and no others"),
)


@dataclass(frozen=True)
class Level:
    """A score of one run, 0 to 1, with what answers that ignore the document would get."""

    mean: float
    chance: float | None
    num_documents: int


def levels(tasks: Mapping[str, TaskResult]) -> dict[str, dict[str, Level]]:
    """The scores of an evaluation by task and name."""
    return {
        task: {name: Level(score.mean, score.chance, score.num_documents) for name, score in result.scores.items()}
        for task, result in tasks.items()
    }
