"""The result of a benchmark, with all that is needed to judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.json_files import read_json
from trainer.errors import UsageError

RESULT_FILE = "result.json"
SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class Result:
    """A row of the table."""

    benchmark: str
    title: str
    split: str
    metric: str
    value: float
    """As papers print it."""

    standard_error: float | None
    n: int
    """Samples scored."""

    n_split: int
    """Samples of the split as it is here."""

    paper_zero_shot: float | None
    paper_tuned: float | None
    paper_where: str
    higher_is_better: bool
    parts: Mapping[str, float] = field(default_factory=dict)
    deviations: Sequence[str] = ()
    """In what the set-up differs from the paper's; a figure with any is no reproduction."""

    notes: Sequence[str] = ()
    seconds: float = 0.0
    """That the answers took, summed over processes."""

    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_comparable(self) -> bool:
        """Whether the set-up is the paper's."""
        return not self.deviations

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def read_result(directory: Path) -> Result:
    """What a run wrote into a benchmark's folder.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    file = directory / RESULT_FILE
    try:
        return Result(**read_json(file))
    except FileNotFoundError:
        raise UsageError(f"{directory} has no {RESULT_FILE}; the benchmark was not scored.") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file} is damaged: {error}") from error


def in_words(value: float, error: float | None = None) -> str:
    """A figure with as many digits as say something: 129.03 ± 1.21, 0.7012."""
    digits = 2 if abs(value) >= 1 else 4
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
