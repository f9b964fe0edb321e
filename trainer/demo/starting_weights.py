"""The weights that the demo goes on from, and what is known of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.tensor_files import WEIGHTS_FILE
from trainer.demo.content import Recorded
from trainer.errors import UsageError
from trainer.evaluation.scores import Score
from trainer.evaluation.settings import Settings
from trainer.ship import TRAINING_FACTS, WITHOUT_MMFS


def training_facts(start: Path | None) -> dict[str, Any] | None:
    """How the weights were made that the demo goes on from; None for random weights, or if nothing stands beside them.

    Raises:
        UsageError: there are no weights.
    """
    if start is None:
        return None
    if not (start / WEIGHTS_FILE).is_file():
        raise UsageError(
            f"{start} holds no {WEIGHTS_FILE} to go on from. Name a directory that does: --from DIR, or begin with "
            "random weights: --from none."
        )
    facts = start / TRAINING_FACTS
    return json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else None


WORLD = ("data_seed", "num_concepts", "num_sprites")
"""Of the settings of an evaluation: which document has which key."""


def recorded_without_mmfs(start: Path | None, settings: Settings) -> Recorded | None:
    """The scores and answers that came with the weights, of the same model trained without MMFS; None if there are
    none. Answers are left out if the settings make other documents than it was asked."""
    file = start / WITHOUT_MMFS if start is not None else None
    if file is None or not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    scores = {
        task: {name: Score(**values) for name, values in result["scores"].items()}
        for task, result in content["tasks"].items()
    }
    answers: dict[str, str] = {}
    if all(content["settings"][name] == getattr(settings, name) for name in WORLD):
        for result in content["tasks"].values():
            answers |= result.get("answers", {})
    return Recorded(scores, answers, content["training"])
