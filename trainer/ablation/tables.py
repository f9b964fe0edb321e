"""The table of a study: mean and spread over seeds beside chance and the paper's figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.ablation.measures import MEASURES, PER_CENT, Level, Measure
from trainer.ablation.plan import Arm, Run, Study
from trainer.ablation.runs import Result
from trainer.evaluation.tasks import EVALUATION_TASKS

Done = Mapping[Run, Result]


def rows(study: Study, done: Done) -> list[dict[str, Any]]:
    """The table as plain data, per cent: a row for each measure that any finished run has."""
    found = []
    for measure in MEASURES:
        arms = {arm.name: _levels(measure, arm, done) for arm in study.arms}
        every = [level for levels in arms.values() for level in levels.values()]
        if not every:
            continue
        chance = every[0].chance  # of the documents, which are the same for all
        found.append(
            {
                "task": measure.task,
                "score": measure.score,
                "label": measure.label,
                "num_documents": every[0].num_documents,
                "chance": None if chance is None else PER_CENT * chance,
                "arms": {name: _spread(levels) for name, levels in arms.items() if levels},
                "paper": measure.paper.get(study.name, ""),
            }
        )
    return found


def _levels(measure: Measure, arm: Arm, done: Done) -> dict[int, Level]:
    """By seed."""
    return {
        run.seed: result.scores[measure.task][measure.score]
        for run, result in done.items()
        if run.arm == arm and run.lesson.name == measure.lesson and measure.score in result.scores.get(measure.task, {})
    }


def _spread(levels: Mapping[int, Level]) -> dict[str, Any]:
    values = [PER_CENT * level.mean for level in levels.values()]
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "by_seed": {str(seed): PER_CENT * level.mean for seed, level in levels.items()},
    }


def markdown(study: Study, table: Sequence[Mapping[str, Any]], facts: Sequence[str]) -> str:
    """The table for a page, with what has to be known about it below."""
    head = ["task", "score, per cent", "chance", *(arm.label for arm in study.arms), "paper"]
    lines = [f"## {study.question}", "", _line(head), _line(["---"] * len(head))]
    for row in table:
        cells = [_cell(row["arms"].get(arm.name)) for arm in study.arms]
        chance = "" if row["chance"] is None else f"{row['chance']:.0f}"
        lines.append(_line([EVALUATION_TASKS[row["task"]].title, row["label"], chance, *cells, row["paper"]]))
    return "\n".join([*lines, "", *(f"* {fact}" for fact in facts), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return ""
    if spread["standard_deviation"] is None:
        return f"{spread['mean']:.1f}"
    return f"{spread['mean']:.1f} ± {spread['standard_deviation']:.1f}"
