import dataclasses
import json

import numpy as np
import pytest

from benchmark_result import RESULT
from models.json_files import write_json
from trainer.benchmarks.comparison import as_text, compare, paired_bootstrap
from trainer.errors import UsageError


def run(folder, scores, **changes):
    own = folder / "gqa"
    own.mkdir(parents=True)
    result = dataclasses.replace(RESULT, value=float(np.mean(scores)), **changes)
    write_json(own / "result.json", result.to_dict())
    (own / "scores.jsonl").write_text(
        "".join(json.dumps({"id": str(number), "score": score}) + "\n" for number, score in enumerate(scores))
    )
    return folder


def test_a_difference_and_chance(tmp_path) -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 400) * 100.0
    better = np.where(generator.random(400) < 0.2, 100.0, first)
    a, b = run(tmp_path / "a", first.tolist()), run(tmp_path / "b", better.tolist())
    [difference] = compare(a, b)
    assert difference.low > 0
    assert difference.low < better.mean() - first.mean() < difference.high
    assert "may be chance" not in as_text([difference])
    [none] = compare(a, a)
    assert (none.low, none.high) == (0, 0)
    assert "may be chance" in as_text([none])


def test_the_interval_is_that_of_the_mean() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, 1000)
    low, high = paired_bootstrap(differences)
    error = differences.std(ddof=1) / np.sqrt(1000)
    assert (low, high) == pytest.approx(
        (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error), abs=0.15 * error
    )


def test_what_cannot_be_compared(tmp_path) -> None:
    a = run(tmp_path / "a", [1.0])
    with pytest.raises(UsageError, match="have no scored benchmark in common"):
        compare(a, tmp_path)
    with pytest.raises(UsageError, match="scored with the split testdev and with val"):
        compare(a, run(tmp_path / "b", [1.0], split="val"))
    other = run(tmp_path / "c", [1.0])
    (other / "gqa/scores.jsonl").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        compare(a, other)
