"""Two runs of the same benchmarks compared, sample by sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.benchmarks.result import RESULT_FILE, SCORES_FILE, Result, in_words, read_result
from trainer.errors import UsageError

NUM_DRAWS = 2000
SEED = 0


@dataclass(frozen=True)
class Difference:
    """How far the second run is from the first."""

    benchmark: str
    metric: str
    first: float
    second: float
    low: float
    """The middle 95 % of the differences of means when samples are drawn anew with replacement, from here..."""

    high: float
    """...to here."""

    n: int
    """Samples that both have."""


def compare(first: Path, second: Path) -> list[Difference]:
    """Every benchmark that both folders hold with a score for each sample.

    Raises:
        UsageError: they have none in common, or one was scored in two ways.
    """
    names = sorted(path.parent.name for path in first.glob(f"*/{RESULT_FILE}"))
    shared = [name for name in names if (second / name / RESULT_FILE).is_file()]
    if not shared:
        raise UsageError(f"{first} and {second} have no scored benchmark in common.")
    found = []
    for name in shared:
        results = [read_result(folder / name) for folder in (first, second)]
        _check_alike(*results)
        scores = [_scores(folder / name) for folder in (first, second)]
        ids = [key for key in scores[0] if key in scores[1]]
        if ids:
            pair = np.array([[its[key] for key in ids] for its in scores])
            low, high = paired_bootstrap(pair[1] - pair[0])
            before, now = pair.mean(1).tolist()
            found.append(Difference(name, results[0].metric, before, now, low, high, len(ids)))
    if not found:
        raise UsageError(f"The benchmarks of {first} and {second} have no score of single samples in common.")
    return found


def paired_bootstrap(differences: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the mean of differences [samples], over draws with replacement."""
    generator = np.random.default_rng(SEED)
    means = [differences[generator.integers(0, len(differences), len(differences))].mean() for _ in range(NUM_DRAWS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def as_text(differences: list[Difference]) -> str:
    """A line for each, with the verdict."""
    lines = []
    for one in differences:
        away = one.low > 0 or one.high < 0
        lines.append(
            f"{one.benchmark}: {one.metric} {in_words(one.first)} and {in_words(one.second)} on {one.n:,} samples; "
            f"difference {one.second - one.first:+.3g}, 95 % from {one.low:+.3g} to {one.high:+.3g}"
            f"{'' if away else ', which may be chance'}"
        )
    return "\n".join(lines)


def _check_alike(one: Result, other: Result) -> None:
    for name in ("split", "metric"):
        if getattr(one, name) != getattr(other, name):
            raise UsageError(
                f"{one.benchmark} was scored with the {name} {getattr(one, name)} and with {getattr(other, name)}; "
                "expected the same."
            )


def _scores(directory: Path) -> dict[str, float]:
    file = directory / SCORES_FILE
    if not file.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {str(entry["id"]): float(entry["score"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is damaged: {error}") from error
