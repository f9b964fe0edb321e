from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.scorers.ndcg import rank_options

Official = Callable[[str], Any]


def test_the_official_score(official: Official) -> None:
    found = official("visdial")
    rankings = [
        rank_options(dialog["scores"], dialog["relevance"], option)
        for dialog, option in zip(found["dialogs"], found["ground_truth_option"], strict=True)
    ]
    ndcgs = np.array([ranking.ndcg for ranking in rankings])
    assert np.abs(ndcgs - found["ndcg_per_dialog"]).max() < 1e-6  # the official program counts in float32
    assert ndcgs.mean() == pytest.approx(found["ndcg"], abs=1e-7)
    ranks = np.array([ranking.rank for ranking in rankings])
    sparse = found["sparse"]
    assert ranks.mean() == pytest.approx(sparse["mean"], rel=1e-6)
    assert (1 / ranks).mean() == pytest.approx(sparse["mrr"], rel=1e-6)
    for k in (1, 5, 10):
        assert (ranks <= k).mean() == pytest.approx(sparse[f"r@{k}"], rel=1e-6)


def test_best_and_worst() -> None:
    assert rank_options([3, 2, 1], [1, 0.5, 0]).ndcg == 1
    assert rank_options([1, 2, 3], [1, 0, 0]).ndcg == 0
    assert rank_options([1, 1, 1], [0, 0, 1], 1) == rank_options([3, 2, 1], [0, 0, 1], 1)  # equal: by number
    assert rank_options([float("-inf"), 0.0], [1, 0], 0).rank == 2


def test_a_dialogue_without_relevant_options_is_left_out() -> None:
    assert rank_options([1, 2], [0, 0], 0).ndcg is None


def test_a_score_that_is_not_a_number_is_refused(official: Official) -> None:
    assert official("visdial")["rank_of_a_nan_score"] == 1
    with pytest.raises(ValueError, match=r"scores\[1\] is not a number"):
        rank_options([1, float("nan")], [1, 0])
    with pytest.raises(ValueError, match="There are 2 scores for 1 relevances"):
        rank_options([1, 2], [1])
