"""docs/scores.md says what each score gives to right and wrong answers: its tables are measured here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from trainer.data.document import Document
from trainer.data.emoji import layouts
from trainer.data.emoji.compositions import choose
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.emoji.world import CANVAS, COLOUR_NAMES, Placed, Scene, facts, render
from trainer.evaluation.image_scores import foreground_iou, scene_scores, to_float
from trainer.evaluation.tasks import EVALUATION_TASKS

DOCUMENT = Path(__file__).parents[2] / "docs" / "scores.md"
NUM_CONCEPTS = 20
NUM_SCENES = 24
SIDE = 32

Drawing = Callable[[Scene, Placed, np.random.Generator], np.ndarray]
"""Of a scene, a sprite more that would have room in it, and random numbers: an image, float32 [SIDE, SIDE, 3]."""


def drawn(scene: Scene, *placed: Placed, colour: int | None = None) -> np.ndarray:
    return to_float(render(Scene(scene.colour if colour is None else colour, placed, scene.gradient)), SIDE)


def with_sprites_of(placed: tuple[Placed, ...], others: tuple[Placed, ...]) -> tuple[Placed, ...]:
    return tuple(
        Placed(other.sprite, one.x, one.y, one.size, one.flip) for one, other in zip(placed, others, strict=True)
    )


def in_flat_squares(scene: Scene) -> np.ndarray:
    """Each sprite's square in the mean colour that it has."""
    true, image = drawn(scene, *scene.placed), drawn(scene)
    for item in scene.placed:
        rows, columns = (slice(start // 2, (start + item.size) // 2) for start in (item.y, item.x))
        image[rows, columns] = true[rows, columns].mean((0, 1))
    return image


def with_noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.clip(image + random.normal(0, 0.1, image.shape), 0, 1).astype(np.float32)


def blurred(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Each pixel as a mean of those around it, with the weights of a Gaussian."""
    reach = int(4 * sigma_px)
    weights = np.exp(-np.square(np.arange(-reach, reach + 1) / sigma_px) / 2).astype(np.float32)
    for axis in (0, 1):
        edges = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        windows = sliding_window_view(np.pad(image, edges, mode="edge"), len(weights), axis=axis)
        image = windows @ (weights / weights.sum())
    return image


def in_round_spots(scene: Scene) -> np.ndarray:
    """A disc in each sprite's square, in the mean colour of what is there."""
    true, image = drawn(scene, *scene.placed), drawn(scene)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for item in scene.placed:
        radius = 0.85 * item.size / 4
        centre = (item.y + item.size / 2) / 2, (item.x + item.size / 2) / 2
        spot = np.square(rows - centre[0]) + np.square(columns - centre[1]) < radius**2
        image[spot] = true[spot].mean(0)
    return image


DRAWINGS: Mapping[str, Drawing] = {
    "the truth": lambda scene, _more, _random: drawn(scene, *scene.placed),
    "the truth, with noise of 0.1": lambda scene, _more, random: with_noise(drawn(scene, *scene.placed), random),
    "the truth, two pixels lower": lambda scene, _more, _random: np.pad(
        drawn(scene, *scene.placed), ((2, 0), (0, 0), (0, 0)), mode="edge"
    )[:SIDE],
    "the truth, blurred by one pixel": lambda scene, _more, _random: blurred(drawn(scene, *scene.placed), 1),
    "the truth, blurred by two pixels": lambda scene, _more, _random: blurred(drawn(scene, *scene.placed), 2),
    "the background alone": lambda scene, _more, _random: drawn(scene),
    "each sprite's square in its mean colour": lambda scene, _more, _random: in_flat_squares(scene),
    "a round spot of its mean colour for each sprite": lambda scene, _more, _random: in_round_spots(scene),
    "noise alone": lambda _scene, _more, random: random.random((SIDE, SIDE, 3), dtype=np.float32),
    "the sprites swapped": lambda scene, _more, _random: drawn(
        scene, *with_sprites_of(scene.placed, scene.placed[::-1])
    ),
    "one sprite left out": lambda scene, _more, _random: drawn(scene, *scene.placed[1:]),
    "one sprite drawn twice": lambda scene, more, _random: drawn(
        scene, *scene.placed, *with_sprites_of((more,), scene.placed[:1])
    ),
    "a sprite more that nobody asked for": lambda scene, more, _random: drawn(scene, *scene.placed, more),
    "another background": lambda scene, _more, _random: drawn(
        scene, *scene.placed, colour=(scene.colour + 1) % len(COLOUR_NAMES)
    ),
}


def scenes() -> list[tuple[Scene, Placed]]:
    """Two sprites and room for a third: in quarters of the image as in stories, and scattered as in label maps."""
    made = []
    for index in range(NUM_SCENES):
        random = np.random.default_rng(index)
        colour, sprites = choose(random, "val", 3, NUM_CONCEPTS)
        if index % 2:
            whole = layouts.scattered(random, colour, sprites)
        else:
            whole = layouts.quarters(colour, dict(zip(random.permutation(4).tolist(), sprites, strict=False)))
        made.append((Scene(colour, whole.placed[:2], whole.gradient), whole.placed[2]))
    return made


def scores_of_drawings() -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {}
    for name, draw in DRAWINGS.items():
        values = []
        for index, (scene, more) in enumerate(scenes()):
            image, asked = draw(scene, more, np.random.default_rng(index)), facts(scene, CANVAS)
            values.append(
                [
                    *scene_scores(image, asked, NUM_CONCEPTS).values(),
                    foreground_iou(image, drawn(scene, *scene.placed), asked),
                ]
            )
        measured[name] = (100 * np.mean(values, axis=0)).tolist()
    return measured


def number(document: Document, *, asked_image: bool, asked_sprite: bool) -> str:
    """A number that stands in the image asked about or in another, under the sprite asked about or the other one."""
    images = document.truth["images"]
    asked = int(document.truth["questions"][0]["text"][-2]) - 1
    image = images[asked if asked_image else (asked + 1) % len(images)]
    return str(image["objects"][0 if asked_sprite else 1]["number"])


def another_image(document: Document) -> int:
    """The index of an image that is there and not asked for."""
    return 1 + int(document.truth["answer"]) % len(document.truth["images"])


@dataclass(frozen=True)
class Table:
    """Answers to the first documents of a task that are about something, and what some scores give to them."""

    task: str
    scores: tuple[str, ...]
    answers: Mapping[str, Callable[[Document], str]]
    about: str = ""
    """Words of the question."""

    def measured(self) -> dict[str, list[float]]:
        task = EVALUATION_TASKS[self.task]
        options = TaskOptions(num_concepts=NUM_CONCEPTS, num_sprites=6)
        asked = documents(self.task, "val", 0, 48, options=options)
        asked = [one for one in asked if self.about in one.segments[one.prompt - 1].text]
        measured = {}
        for name, answer in self.answers.items():
            scores = [task.score(answer(one), one, NUM_CONCEPTS) for one in asked]
            measured[name] = [100 * float(np.mean([its[score] for its in scores])) for score in self.scores]
        return measured


NUMBER_IN_IMAGE = Table(
    "compare",
    ("number_in_image", "in_asked_image", "some_number"),
    {
        "the truth": lambda document: document.truth["answer"],
        "a search in writing, then the truth": lambda document: f"image 1 top left 7, {document.truth['answer']}",
        "the truth, then another number": lambda document: f"{document.truth['answer']}, 7",
        "of the right image, the other sprite's": lambda one: number(one, asked_image=True, asked_sprite=False),
        "of another image, the right sprite's": lambda one: number(one, asked_image=False, asked_sprite=True),
        "of another image, the other sprite's": lambda one: number(one, asked_image=False, asked_sprite=False),
        "no number": lambda _document: "top left",
    },
    about=" in image ",
)
WHICH_IMAGE = Table(
    "compare",
    ("which_image", "some_image"),
    {
        "the true index": lambda document: document.truth["answer"],
        "a search in writing, then the true index": lambda one: f"image 1 top left fox, {one.truth['answer']}",
        "the true index, then another": lambda document: f"{document.truth['answer']}, {another_image(document)}",
        "another image": lambda document: str(another_image(document)),
        "always image 1": lambda _document: "1",
        "always the last image": lambda document: str(len(document.truth["images"])),
        "an image that is not there": lambda document: str(1 + len(document.truth["images"])),
        "no index": lambda _document: "top left",
    },
    about=" which image ",
)
SEARCH = Table(
    "read_steps",
    ("number", "some_number", "search"),
    {
        "the truth, step by step": lambda document: document.truth["answer"],
        "the number alone": lambda document: document.truth["answer"].split(": ")[1],
        "the search, then no number": lambda document: document.truth["answer"].split(": ")[0],
        "the search, then another sprite's number": lambda one: f"{one.truth['answer'].split(': ')[0]}: {other(one)}",
        "another search, then the number": lambda one: f"top left fox: {one.truth['answer'].split(': ')[1]}",
    },
)


def other(document: Document) -> int:
    """A number that stands in the image and is not asked for."""
    numbers = [item["number"] for item in document.truth["images"][0]["objects"]]
    return next(number for number in numbers if not document.truth["answer"].endswith(f": {number}"))


def published() -> dict[str, list[float]]:
    """The rows of per cents in the document, by their first cell; cells of earlier measures, in brackets, left out."""
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells and all(re.fullmatch(r"\(?\d+\)?", cell) for cell in cells):
            rows.setdefault(name, []).append([float(cell) for cell in cells if cell[0] != "("])
    return rows


@pytest.mark.parametrize(
    "measure",
    [scores_of_drawings, NUMBER_IN_IMAGE.measured, WHICH_IMAGE.measured, SEARCH.measured],
    ids=["drawings", "number in image", "which image", "search"],
)
def test_the_tables_say_what_the_scores_give(measure: Callable[[], dict[str, list[float]]]) -> None:
    rows = published()
    for name, values in measure().items():
        [row] = [row for row in rows.get(name, []) if len(row) == len(values)]
        assert row == pytest.approx(values, abs=1), name
