"""What a set of scores is worth: their mean, its error, and chance.

Scores are shares between 0 (wrong) and 1 (right). `text_scores` and `image_scores` say how right one answer is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Truth = TypeVar("Truth")


@dataclass(frozen=True)
class Score:
    """The mean of one score over documents."""

    mean: float
    standard_error: float
    chance: float | None
    """What the same scorer gives to answers that don't look at the document; see `chance_levels`. None: too few
    documents to say."""

    ceiling: float
    """What the same scorer gives to the truth itself: below 1 where the scorer, not the model, is at fault."""

    num_documents: int

    @classmethod
    def of(cls, values: Sequence[float], *, chance: float | None, ceiling: float) -> Score:
        """The score of one value in [0, 1] a document; `chance` and `ceiling` are kept as they are.

        Raises:
            ValueError: there is no value.
        """
        if not values:
            raise ValueError("There are no values to average. Expected the score of at least one document.")
        return cls(sum(values) / len(values), standard_error(values), chance, ceiling, len(values))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of values in [0, 1].

    Two pseudo-observations, one 0 and one 1, are added first (Agresti and Coull's "plus two" idea): otherwise 24
    right answers of 24 would claim an error of exactly 0.
    """
    padded = [*values, 0.0, 1.0]
    mean = sum(padded) / len(padded)
    variance = sum((value - mean) ** 2 for value in padded) / (len(padded) - 1)
    return math.sqrt(variance / len(padded))


def chance_levels(
    truths: Sequence[Truth], score: Callable[[Truth, Truth], Mapping[str, float]], *, max_shifts: int
) -> dict[str, float]:
    """The scores of answering each document with the right answer of another one.

    That is what a model earns that knows the task, its words and how often each answer occurs, but doesn't look at the
    document. Document i gets the answers of documents i + 1, i + 2, ... (around the end), so each answer is used as
    often as every other.

    Args:
        truths: what is true about each document.
        score: (owner of the answer, document) to the scores of that pair; a score that makes no sense for it is absent.
        max_shifts: how many other documents each document is paired with, at most all.

    Returns:
        The mean of each score over the pairs that have it.
    """
    collected: dict[str, list[float]] = {}
    for shift in range(1, min(max_shifts, len(truths) - 1) + 1):
        for place, truth in enumerate(truths):
            for name, value in score(truths[(place + shift) % len(truths)], truth).items():
                collected.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in collected.items()}
