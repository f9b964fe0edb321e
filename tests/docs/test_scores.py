"""docs/scores.md says what each score gives to right and wrong answers: its tables are measured here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

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


DRAWINGS: Mapping[str, Drawing] = {
    "the truth": lambda scene, _more, _random: drawn(scene, *scene.placed),
    "the truth, with noise of 0.1": lambda scene, _more, random: with_noise(drawn(scene, *scene.placed), random),
    "the truth, two pixels lower": lambda scene, _more, _random: np.pad(
        drawn(scene, *scene.placed), ((2, 0), (0, 0), (0, 0)), mode="edge"
    )[:SIDE],
    "the background alone": lambda scene, _more, _random: drawn(scene),
    "each sprite's square in its mean colour": lambda scene, _more, _random: in_flat_squares(scene),
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


ANSWERS: Mapping[str, Callable[[Document], str]] = {
    "the truth": lambda document: document.truth["answer"],
    "a search in writing, then the truth": lambda document: f"image 1 top left 7, {document.truth['answer']}",
    "the truth, then another number": lambda document: f"{document.truth['answer']}, 7",
    "of the right image, the other sprite's": lambda document: number(document, asked_image=True, asked_sprite=False),
    "of another image, the right sprite's": lambda document: number(document, asked_image=False, asked_sprite=True),
    "of another image, the other sprite's": lambda document: number(document, asked_image=False, asked_sprite=False),
    "no number": lambda _document: "top left",
}


def scores_of_answers() -> dict[str, list[float]]:
    asked = documents("compare", "val", 0, 48, options=TaskOptions(num_concepts=NUM_CONCEPTS))
    about_a_number = [one for one in asked if " in image " in one.truth["questions"][0]["text"]]
    task = EVALUATION_TASKS["compare"]
    return {
        name: [
            100 * float(np.mean([task.score(answer(one), one, NUM_CONCEPTS)[score] for one in about_a_number]))
            for score in ("number_in_image", "in_asked_image")
        ]
        for name, answer in ANSWERS.items()
    }


def published() -> dict[str, list[float]]:
    """The rows of per cents in the document, by their first cell; cells of earlier measures, in brackets, left out."""
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells and all(re.fullmatch(r"\(?\d+\)?", cell) for cell in cells):
            rows.setdefault(name, []).append([float(cell) for cell in cells if cell[0] != "("])
    return rows


@pytest.mark.parametrize("measure", [scores_of_drawings, scores_of_answers])
def test_the_tables_say_what_the_scores_give(measure: Callable[[], dict[str, list[float]]]) -> None:
    rows = published()
    for name, values in measure().items():
        [row] = [row for row in rows.get(name, []) if len(row) == len(values)]
        assert row == pytest.approx(values, abs=1), name
