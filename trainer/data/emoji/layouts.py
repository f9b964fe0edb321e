"""Where sprites go: each layout turns a background colour and sprites into a scene, randomly or canonically.

Distances are canvas units (64 a side). Random layouts leave a margin between sprites, so every silhouette is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from trainer.data.emoji.compositions import Split, choose
from trainer.data.emoji.world import CANVAS, Placed, Scene

GRID = 3
GRID_CELL = CANVAS // GRID
NUMBER_HEIGHT = 7
"""A printed number with the gap above it."""

STEEPEST_GRADIENT = 12
"""Grey levels by which a background brightens at most, from the centre to an edge."""

Direction = Literal["row", "column"]


def _within(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _flip(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


def _gradient(rng: np.random.Generator) -> tuple[int, int]:
    # Few different ones, so that the rendered backgrounds stay in their cache.
    half = STEEPEST_GRADIENT // 2
    return half * _within(rng, -2, 2), half * _within(rng, -2, 2)


def _different_numbers(rng: np.random.Generator, count: int) -> list[int]:
    return [10 + int(number) for number in rng.permutation(90)[:count]]


def single(rng: np.random.Generator, colour: int, sprite: int) -> Scene:
    """One sprite of 26 to 44 units, anywhere."""
    size = _within(rng, 26, 44)
    item = Placed(sprite, _within(rng, 0, CANVAS - size), _within(rng, 0, CANVAS - size), size, _flip(rng))
    return Scene(colour, (item,), _gradient(rng))


def line(rng: np.random.Generator, colour: int, sprites: Sequence[int], direction: Direction) -> Scene:
    """Two or three sprites side by side in the given order, from the left or from the top."""
    cell = CANVAS // len(sprites)
    off_axis = CANVAS // 2 + _within(rng, -12, 12)
    placed = []
    for index, sprite in enumerate(sprites):
        size = _within(rng, cell - 8, cell - 2)
        along = index * cell + _within(rng, 0, cell - size)
        across = min(max(off_axis - size // 2 + _within(rng, -3, 3), 0), CANVAS - size)
        x, y = (along, across) if direction == "row" else (across, along)
        placed.append(Placed(sprite, x, y, size, _flip(rng)))
    return Scene(colour, tuple(placed), _gradient(rng))


def scattered(rng: np.random.Generator, colour: int, sprites: Sequence[int]) -> Scene:
    """Up to four sprites of 18 to 28 units at free positions, without overlap."""
    while True:
        placed: list[Placed] = []
        for flip, *numbers in rng.random((64, 4)).tolist():
            size = 18 + int(numbers[0] * 11)
            x, y = (int(number * (CANVAS - size + 1)) for number in numbers[1:])
            if not any(_overlap(x, y, size, other) for other in placed):
                placed.append(Placed(sprites[len(placed)], x, y, size, flip < 0.5))
                if len(placed) == len(sprites):
                    return Scene(colour, tuple(placed), _gradient(rng))


def _overlap(x: int, y: int, size: int, other: Placed) -> bool:
    """Whether a square shares area with that of a sprite."""
    return x < other.x + other.size and other.x < x + size and y < other.y + other.size and other.y < y + size


def numbered_grid(rng: np.random.Generator, colour: int, sprites: Sequence[int], grid: int = GRID) -> Scene:
    """Up to grid * grid sprites in the cells of a jittered grid, each with its own number of two digits below it."""
    cell = CANVAS // grid
    numbers = _different_numbers(rng, len(sprites))
    placed = []
    for sprite, number, place in zip(sprites, numbers, rng.permutation(grid * grid)[: len(sprites)], strict=True):
        row, column = divmod(int(place), grid)
        size = _within(rng, cell - NUMBER_HEIGHT - 2, cell - NUMBER_HEIGHT)
        x = column * cell + _within(rng, 0, cell - size)
        y = row * cell + _within(rng, 0, cell - NUMBER_HEIGHT - size)
        placed.append(Placed(sprite, x, y, size, _flip(rng), number))
    return Scene(colour, tuple(placed), _gradient(rng))


def with_numbers_apart(scenes: Sequence[Scene]) -> list[Scene]:
    """The scenes, so that no number stands in two of them: one that an earlier scene shows is counted on to the next,
    from 10 to 99, that none shows."""
    shown = {item.number for scene in scenes for item in scene.placed}
    taken: set[int | None] = {None}
    apart = []
    for scene in scenes:
        placed = []
        for item in scene.placed:
            number = item.number
            while number is not None and number in taken:
                number = next(n for n in [*range(number + 1, 100), *range(10, number)] if n not in shown)
                shown.add(number)
            taken.add(number)
            placed.append(replace(item, number=number))
        apart.append(replace(scene, placed=tuple(placed)))
    return apart


def centred(colour: int, sprite: int) -> Scene:
    """One big sprite in the middle; the image is a function of the arguments."""
    size = 52
    return Scene(colour, (Placed(sprite, (CANVAS - size) // 2, (CANVAS - size) // 2, size),))


def halves(colour: int, sprites: Sequence[int], direction: Direction) -> Scene:
    """Two sprites in the two halves; the image is a function of the arguments."""
    size, margin = 30, 1
    middle = (CANVAS - size) // 2
    ends = (margin, CANVAS - margin - size)
    places = [(end, middle) if direction == "row" else (middle, end) for end in ends]
    return Scene(colour, tuple(Placed(sprite, x, y, size) for sprite, (x, y) in zip(sprites, places, strict=True)))


def quarters(colour: int, cells: dict[int, int]) -> Scene:
    """Sprites in the four quarters; `cells` maps quarter (0 top left, 1 top right, 2, 3 below) to sprite."""
    size, margin = 30, 1
    half = CANVAS // 2
    return Scene(
        colour,
        tuple(
            Placed(sprite, cell % 2 * half + margin, cell // 2 * half + margin, size)
            for cell, sprite in sorted(cells.items())
        ),
    )


def random_scene(seed: int, index: int, *, num_concepts: int, split: Split = "train", max_sprites: int = 9) -> Scene:
    """A scene of any layout, a pure function of its arguments; what the image encoder is pre-trained on."""
    rng = np.random.default_rng([seed, 1 + index])
    kind = rng.integers(5)
    if kind == 0:
        colour, sprites = choose(rng, split, 1, num_concepts)
        return single(rng, colour, sprites[0])
    if kind == 1:
        colour, sprites = choose(rng, split, _within(rng, 2, 3), num_concepts)
        return line(rng, colour, sprites, "row" if _flip(rng) else "column")
    if kind == 2:
        return scattered(rng, *choose(rng, split, _within(rng, 1, 4), num_concepts))
    count, grid = (_within(rng, 1, max_sprites), GRID) if kind == 3 else (_within(rng, 1, 4), 2)
    return numbered_grid(rng, *choose(rng, split, count, num_concepts), grid)
