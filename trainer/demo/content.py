"""What the page of the demo shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.document import Segment
from trainer.evaluation.answers import Written
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.scores import Score
from trainer.logging.charts import Curve


@dataclass(frozen=True, eq=False)
class Run:
    """A training run's losses."""

    title: str
    text: Curve
    image: Curve


@dataclass(frozen=True, eq=False)
class Story:
    """A document that the model went on with by itself."""

    prompt: tuple[Segment, ...]
    written: tuple[Written, ...]


@dataclass(frozen=True, eq=False)
class SampledImage:
    """An image, and the locations where one query of the language model samples it."""

    image: np.ndarray
    """uint8 [h, w, 3]."""

    question: str
    answer: str
    points: tuple[tuple[float, float, float], ...]
    """(x, y, weight): places in [0, 1], and the share of the attention there."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """Scores of a model that does not travel with the repository."""

    scores: Mapping[str, Mapping[str, Score]]
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
    stories: tuple[Story, ...]
    sampled_images: tuple[SampledImage, ...]
    export: Mapping[str, Any]
    """The manifest of `python -m export.trt`."""

    made_by: Mapping[str, Any] | None
    """How the shipped weights were made: training.json."""

    commands: Mapping[str, str]
    """What this demo ran, in words and as commands."""

    environment: Mapping[str, Any]
    wall_times_s: Mapping[str, float]
