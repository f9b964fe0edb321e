"""What is broken, and when it is too much."""

from __future__ import annotations

import json

import pytest

from trainer.data.quarantine import MIN_READ, Quarantine
from trainer.errors import UnusableDataError


def test_broken_ones_are_named_once(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(file, 0.5)
    for name in ("a", "b", "a"):
        quarantine.count()
        quarantine.add("laion", name, "it is cut off")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"source": "laion", "name": name, "reason": "it is cut off"} for name in ("a", "b")
    ]
    assert (quarantine.num_read, quarantine.num_broken) == (3, 3)


def test_too_many_stop_the_run():
    quarantine = Quarantine(None, 0.01)
    for number in range(10):
        quarantine.count()
        quarantine.add("laion", str(number), "broken")
    with pytest.raises(UnusableDataError, match=r"11 of 10 .* than the share of 0.01 .* The last: x: it is cut off"):
        quarantine.add("laion", "x", "it is cut off")


def test_the_share_is_of_all_that_was_read():
    quarantine = Quarantine(None, 0.01)
    for _ in range(2 * MIN_READ):
        quarantine.count()
    for number in range(20):
        quarantine.add("laion", str(number), "broken")
    with pytest.raises(UnusableDataError, match="21 of 2000"):
        quarantine.add("laion", "x", "broken")
    with pytest.raises(UnusableDataError, match="1 of 0"):
        Quarantine(None, 0.0).add("laion", "x", "broken")
