"""An answer that searches in writing: place after place, what stands there, until the thing asked for is found.

To look at a known place and to name what is there is one step; so is comparing two words. To find a thing's place is a
search, which a small model cannot do in one step and can do in several, if it writes them down.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.emoji.atlas import sprites as all_sprites
from trainer.data.emoji.world import CANVAS, Placed

REQUEST = " step by step"
"""What a question ends with whose answer shall search in writing."""

PLACES = {2: (("top", "bottom"), ("left", "right")), 3: (("top", "", "bottom"), ("left", "", "right"))}
"""Words for the rows and columns of a 2 x 2 and a 3 x 3 grid; the centre of the latter is the "middle"."""

CELLS = 10
"""A thing's rough position is told by the column and the row of its middle in a grid of this many cells a side."""


def place(item: Placed, grid: int) -> str:
    """Where a sprite of a 2 x 2 or 3 x 3 grid stands: "top left"."""
    row, column = _cell(item, grid)
    rows, columns = PLACES[grid]
    return f"{rows[row]} {columns[column]}".strip() or "middle"


def search_places(placed: Sequence[Placed], sought: Placed | None, grid: int) -> str:
    """The places of a grid in reading order, with what stands there, up to the one sought, or all:
    "top left whale, middle strawberry"."""
    steps = []
    for item in sorted(placed, key=lambda item: _cell(item, grid)):
        steps.append(f"{place(item, grid)} {all_sprites()[item.sprite].name}")
        if item is sought:
            break
    return ", ".join(steps)


def search_positions(placed: Sequence[Placed], sought: Placed | None) -> str:
    """Things from left to right, each behind its rough position, up to the one sought or all: "03 banana, 53 whale"."""
    steps = []
    for item in sorted(placed, key=lambda item: (_cell(item, CELLS)[::-1], item.x)):
        row, column = _cell(item, CELLS)
        steps.append(f"{column}{row} {all_sprites()[item.sprite].name}")
        if item is sought:
            break
    return ", ".join(steps)


def _cell(item: Placed, grid: int) -> tuple[int, int]:
    """Row and column of the sprite's middle."""
    column, row = (int((edge + item.size / 2) * grid / CANVAS) for edge in (item.x, item.y))
    return row, column
