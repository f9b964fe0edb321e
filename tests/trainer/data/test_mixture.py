"""Shares and orders."""

from __future__ import annotations

import itertools
import math

import pytest

from trainer.data.mixture import BLOCK, Mixture, shuffled


def test_weights_of_one_to_two_are_one_to_two_within_the_binomial_error():
    mixture = Mixture([1.0, 2.0], seed=0)
    for count in (90, 900, 6000):
        second = sum(mixture(row)[0] for row in range(count))
        assert abs(second - count * 2 / 3) < 3 * math.sqrt(count * 2 / 9)
    # And no pattern: neighbours are as independent as the shares make them.
    sources = [mixture(row)[0] for row in range(6000)]
    both = sum(a and b for a, b in itertools.pairwise(sources))
    assert abs(both / 6000 - 4 / 9) < 0.03


def test_each_source_counts_its_own_rows():
    mixture = Mixture([1.0, 0.5, 3.0], seed=4)
    seen = [0, 0, 0]
    for row in range(2 * BLOCK + 100):
        source, rank = mixture(row)
        assert rank == seen[source]
        seen[source] += 1
    assert sum(mixture.quotas) == BLOCK
    assert Mixture([1.0, 0.5, 3.0], seed=4)(2 * BLOCK + 50) == mixture(2 * BLOCK + 50)
    assert [Mixture([1.0, 1.0], seed)(0)[0] for seed in range(20)].count(0) not in (0, 20)


@pytest.mark.parametrize(
    ("weights", "sentence"), [([], "one or more"), ([1.0, 0.0], "above 0"), ([1.0, 1e-9], "never be read")]
)
def test_weights_that_cannot_be_met(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        Mixture(weights, seed=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 100, 1000])
def test_a_shuffled_order_has_everything_once(count):
    order = [shuffled(index, count, key=7) for index in range(count)]
    assert sorted(order) == list(range(count))
    if count >= 100:
        assert order != list(range(count))
        assert order != [shuffled(index, count, key=8) for index in range(count)]
        assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(order)) < count / 10


def test_large_sources_are_shuffled_without_a_list():
    indices = {shuffled(index, 600_000_000, key=1) for index in range(1000)}
    assert len(indices) == 1000
    assert max(indices) < 600_000_000
    assert max(indices) > 500_000_000
