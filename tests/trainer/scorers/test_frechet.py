from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.scorers.frechet import RunningStatistics, Statistics, frechet_distance

Official = Callable[[str], Any]


def statistics(features: Any, parts: int = 3) -> Statistics:
    values = np.asarray(features)
    running = RunningStatistics(values.shape[1])
    for part in np.array_split(values, parts):
        running.add(part)
    return running.result()


def test_the_official_distances(official: Official) -> None:
    cases = official("fid")["distances"]
    assert len(cases) == 7
    for case in cases:
        distance = frechet_distance(statistics(case["a"]), statistics(case["b"]))
        # torch-fidelity's figure and pytorch-fid's differ by 4e-8 where a covariance is singular
        bounds = {"rel": 1e-7, "abs": 1e-12 if case["a"] != case["b"] else 1e-9}
        if "singular" in case["note"] or "rank" in case["note"]:
            bounds = {"abs": 2e-7}
        assert distance == pytest.approx(case["pytorch_fid"], **bounds), case["note"]


def test_statistics_do_not_depend_on_the_parts() -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)) + 100
    for parts in (1, 2, 49):
        found = statistics(features, parts)
        assert found.count == 50
        np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-10, atol=1e-12)


def test_a_set_with_itself() -> None:
    found = statistics(np.random.default_rng(0).normal(size=(300, 40)))
    assert abs(frechet_distance(found, found)) < 1e-6


def test_what_is_refused() -> None:
    running = RunningStatistics(3)
    with pytest.raises(ValueError, match=r"expected \[samples, 3\]"):
        running.add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not a number"):
        running.add(np.full((2, 3), np.nan))
    running.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="There are 1 samples"):
        running.result()
