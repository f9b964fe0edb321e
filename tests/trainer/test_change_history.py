"""The record of what was changed on the way."""

import pytest

from trainer.change_history import SettingsChange, assign, differences, redone, undone

BEFORE = {
    "optim": {"lr": 1.0, "betas": [0.9, 0.99]},
    "corpus": {"sources": {"a": {"weight": 1.0, "min_similarity": None}, "b": {"weight": 2.0}}},
    "data": {"tasks": {"read": 1.0}},
    "history": [],
}
AFTER = {
    "optim": {"lr": 0.5, "betas": [0.9, 0.99]},
    "corpus": {"sources": {"a": {"weight": 1.0, "min_similarity": 0.3}, "c": {"weight": 3.0}}},
    "data": {"tasks": {"draw": 1.0}},
    "history": ["something"],
}


def test_differences_lead_there_and_back():
    changed = differences(BEFORE, AFTER)
    assert list(map(str, changed)) == [
        "corpus.sources.a.min_similarity: null -> 0.3",
        "corpus.sources.b: {'weight': 2.0} -> null",
        "corpus.sources.c: null -> {'weight': 3.0}",
        "data.tasks.draw: null -> 1.0",
        "data.tasks.read: 1.0 -> null",
        "optim.lr: 1.0 -> 0.5",
    ]
    first, second = (SettingsChange("main", 3, part) for part in (changed[:3], changed[3:]))
    assert redone(BEFORE, [first, second]) | {"history": 0} == AFTER | {"history": 0}
    assert undone(AFTER, [first, second]) | {"history": 0} == BEFORE | {"history": 0}
    assert undone(AFTER, [second])["optim"] == BEFORE["optim"]
    assert undone(AFTER, [second])["corpus"] == AFTER["corpus"]


def test_a_setting_that_is_none_is_not_assigned():
    for name in ("optim.rate", "optim.lr.more", "corpus.sources.z.weight", "nothing"):
        with pytest.raises(KeyError):
            assign(redone(BEFORE, []), name, 1)
