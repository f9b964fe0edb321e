import math

import numpy as np
import pytest

from trainer.evaluation.scores import Score, chance_levels, standard_error


def test_the_standard_error_is_that_of_the_sample_and_never_zero() -> None:
    values = list(np.random.default_rng(0).random(400) < 0.3)
    assert standard_error(values) == pytest.approx(math.sqrt(0.3 * 0.7 / 400), rel=0.1)
    assert 0 < standard_error([1.0] * 24) < 0.06
    assert standard_error([1.0] * 96) < standard_error([1.0] * 24)


def test_a_score_without_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        Score.of([], chance=0.1, ceiling=1.0)


def test_chance_is_the_probability_that_two_documents_have_the_same_answer() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    truths = list(np.random.default_rng(1).choice(3, size=400, p=shares))
    chance = chance_levels(truths, lambda owner, truth: {"same": float(owner == truth)}, max_shifts=400)
    # Of a pair drawn without repetition; over many pairs, the sum of the squared shares.
    assert chance["same"] == pytest.approx((shares**2).sum(), abs=0.02)
    few = chance_levels(truths, lambda owner, truth: {"same": float(owner == truth)}, max_shifts=4)
    assert few["same"] == pytest.approx(chance["same"], abs=0.05)


def test_chance_never_pairs_a_document_with_itself_and_uses_each_answer_equally_often() -> None:
    pairs = []

    def note(owner: int, truth: int) -> dict[str, float]:
        pairs.append((owner, truth))
        return {}

    chance_levels(range(5), note, max_shifts=99)
    assert sorted(pairs) == [(a, b) for a in range(5) for b in range(5) if a != b]


def test_chance_counts_only_pairs_that_have_the_score() -> None:
    def score(owner: int, truth: int) -> dict[str, float]:
        return {"odd": 1.0} if owner % 2 and truth % 2 else {"other": 0.0}

    assert chance_levels(range(6), score, max_shifts=5) == {"odd": 1.0, "other": 0.0}
    assert chance_levels([7], score, max_shifts=5) == {}
