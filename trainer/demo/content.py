"""What the page of the demo shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.document import Document, Segment
from trainer.evaluation.answers import Written
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.grading import Answered
from trainer.evaluation.scores import Score
from trainer.logging.charts import Curve


@dataclass(frozen=True, eq=False)
class Run:
    """A training run's losses."""

    title: str
    text: Curve
    image: Curve


@dataclass(frozen=True, eq=False)
class Told:
    """A document that the model went on with by itself, in text and images."""

    document: Document
    prompt: tuple[Segment, ...]
    written: tuple[Written, ...]


@dataclass(frozen=True)
class LocatedWord:
    """A word that the model wrote, and where it sampled the images to write it."""

    text: str
    points: tuple[tuple[tuple[float, float, float], ...], ...]
    """For each image, (x, y, weight): places in [0, 1], and the share of all attention there."""

    shares: tuple[float, ...]
    """For each image, the share of all attention."""


@dataclass(frozen=True, eq=False)
class LocatedAnswer:
    """An answer in text, word by word."""

    answered: Answered
    words: tuple[LocatedWord, ...]


@dataclass(frozen=True, eq=False)
class Recorded:
    """What is known of a model that does not travel with the repository."""

    scores: Mapping[str, Mapping[str, Score]]
    answers: Mapping[str, str]
    """What it wrote to a document, by the document's key; empty if it was asked in another world."""

    training: Mapping[str, Any]
    """Command, steps, minutes and environment of its training."""


@dataclass(frozen=True, eq=False)
class Demo:
    """All that the page shows."""

    live: Evaluation
    """Of the weights that this demo trained."""

    shipped: Evaluation | None
    """Of the weights that it started from; None: it started from random ones."""

    without_mmfs: Recorded | None
    """Of the same model, trained as the shipped weights were but without MMFS."""

    runs: tuple[Run, ...]
    located_answers: tuple[LocatedAnswer, ...]
    stories: tuple[Told, ...]
    label_maps: tuple[Told, ...]
    export: Mapping[str, Any]
    """The manifest of `python -m export.trt`."""

    made_by: Mapping[str, Any] | None
    """How the shipped weights were made: training.json."""

    commands: Mapping[str, str]
    """What this demo ran, in words and as commands."""

    environment: Mapping[str, Any]
    wall_times_s: Mapping[str, float]
