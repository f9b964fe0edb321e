"""What the demo can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROGRAM = "python -m trainer.demo"

SHIPPED = Path(__file__).parents[1] / "weights" / "toy"
"""The weights that came with the repository."""


@dataclass(frozen=True)
class Options:
    """What `python -m trainer.demo` was asked for."""

    out: Path
    start: Path | None
    """The weights that the training goes on from; None: random ones."""

    minutes: float | None
    """Limit of the training; None: the recipe's."""

    quick: bool
    """Everything once, as small as possible: does it work, not what does it score."""
