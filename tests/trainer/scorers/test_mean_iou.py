from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.scorers.mean_iou import ConfusionCounts

Official = Callable[[str], Any]


def test_the_official_score(official: Official) -> None:
    found = official("miou")
    counts = ConfusionCounts()
    for label, prediction in zip(found["labels"], found["predictions"], strict=True):
        counts.add(np.reshape(label, found["shape"]), np.reshape(prediction, found["shape"]))
    for name, values in (("intersection", counts.intersection), ("union", counts.union)):
        assert {int(i): int(values[int(i)]) for i in found[name]} == {int(i): n for i, n in found[name].items()}
    result = counts.result()
    assert result.over_all_classes == pytest.approx(found["mean_over_150"], abs=1e-9)
    assert result.over_seen_classes == pytest.approx(found["mean_over_classes_with_a_union"], abs=1e-9)
    # the official program adds 1e-10 to denominators and rounds its inputs to float32
    assert result.pixel_accuracy == pytest.approx(found["pixel_accuracy"], abs=1e-7)


def test_the_label_as_the_prediction() -> None:
    label = np.array([[0, 1, 2], [3, 3, 0]])
    counts = ConfusionCounts(3)
    counts.add(label, np.maximum(label - 1, 0))
    assert counts.result().over_all_classes == counts.result().pixel_accuracy == 1


def test_nothing_counted() -> None:
    result = ConfusionCounts(3).result()
    assert (result.over_all_classes, result.over_seen_classes, result.pixel_accuracy) == (0, 0, 0)


@pytest.mark.parametrize(
    ("label", "prediction", "message"),
    [
        ([[0, 4]], [[0, 0]], "label holds 0 to 4; expected 0 to 3"),
        ([[0, 1]], [[0, 3]], "prediction holds 0 to 3; expected 0 to 2"),
        ([[0, 1]], [[0]], "expected one size"),
    ],
)
def test_what_is_refused(label: list, prediction: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionCounts(3).add(np.array(label), np.array(prediction))
