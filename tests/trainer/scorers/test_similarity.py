from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.scorers.similarity import best_candidates, cosines

Official = Callable[[str], Any]


def test_the_released_choice(official: Official) -> None:
    found = official("clip")
    candidates, texts = found["num_candidates"], found["num_captions"]
    # the released code stacks all first candidates, then all second ones
    stacked = np.reshape(found["image_features_candidate_major"], (candidates, texts, -1))
    chosen, all_cosines = best_candidates(np.array(found["text_features"]), stacked.transpose(1, 0, 2))
    assert [int(candidate * texts + text) for text, candidate in enumerate(chosen)] == found["chosen_rows"]
    np.testing.assert_allclose(all_cosines, found["cosines"], atol=1e-6)


def test_cosines_of_pairs(official: Official) -> None:
    found = official("clip")["image_pairs"]
    values = cosines(np.array(found["a"]), np.array(found["b"]))
    np.testing.assert_allclose(values, found["cosines"], atol=1e-6)
    assert values.mean() == pytest.approx(found["mean"], abs=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no direction"):
        cosines(np.zeros((1, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="expected one shape"):
        cosines(np.ones((1, 3)), np.ones((2, 3)))
