"""How right the answers to one family are, beside the truth itself and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.document import Document
from trainer.evaluation.answers import Written
from trainer.evaluation.image_scores import to_float
from trainer.evaluation.scores import Score, chance_levels
from trainer.evaluation.tasks import Answer, Task

MAX_SHIFTS = {"text": 48, "image": 4}
"""How many other documents' answers each document is scored with to measure chance."""


@dataclass(frozen=True, eq=False)
class Answered:
    """One document, what the model made of it, and how right that is."""

    document: Document
    answer: Written
    scores: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the headline score is full."""
        return next(iter(self.scores.values())) == 1


@dataclass(frozen=True, eq=False)
class TaskResult:
    """One family's evaluation."""

    answered: tuple[Answered, ...]
    scores: dict[str, Score]
    wall_s: float
    """Seconds in `generate`, of all workers together."""


def grade(
    task: Task,
    asked: Sequence[Document],
    written: Sequence[Written],
    *,
    num_concepts: int,
    image_side: int,
    wall_s: float = 0.0,
) -> TaskResult:
    """Score the answers of one family, the truth itself, and chance.

    Args:
        task: of the family.
        asked: its documents.
        written: the answer to each.
        num_concepts: how many sprites a drawn one is told from.
        image_side: images are compared at this size; it divides the size of the drawn ones.
        wall_s: seconds that the answers took.
    """

    def score(given: Answer, document: Document) -> dict[str, float]:
        return task.score(given, document, num_concepts)

    truths = {document.key: task.true_answer(document, image_side) for document in asked}
    best = {document.key: score(truths[document.key], document) for document in asked}

    def score_other(owner: Document, document: Document) -> dict[str, float]:
        scores = score(truths[owner.key], document)
        return {name: scores[name] for name in best[owner.key].keys() & best[document.key].keys()}

    chance = chance_levels(asked, score_other, max_shifts=MAX_SHIFTS[task.kind])
    answered = tuple(
        Answered(document, one, score(_scorable(one, image_side), document))
        for document, one in zip(asked, written, strict=True)
    )
    names = [name for name in task.labels if any(name in its for its in best.values())]
    scores = {
        name: Score.of(
            [one.scores[name] for one in answered if name in one.scores],
            chance=chance.get(name),
            ceiling=float(np.mean([its[name] for its in best.values() if name in its])),
        )
        for name in names
    }
    return TaskResult(answered, scores, wall_s)


def _scorable(written: Written, image_side: int) -> Answer:
    return written if isinstance(written, str) else to_float(np.asarray(written), image_side)
