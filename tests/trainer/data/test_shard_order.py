"""Shards in random order, samples at random within a window of them, each once an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.shard_order import ShardOrder

SIZES = [5, 1, 0, 7, 20, 3, 3, 11]


@pytest.mark.parametrize("window_shards", [1, 2, 3, 8, 100])
def test_every_sample_stands_in_an_epoch_once_and_epochs_differ(window_shards):
    order = ShardOrder(SIZES, key=3, window_shards=window_shards)
    epochs = [[order(epoch * 50 + index) for index in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [order(120), order(7)] == [epochs[2][20], epochs[0][7]]  # in any sequence
    assert [ShardOrder(SIZES, 4, window_shards)(index) for index in range(50)] != epochs[0]


def test_samples_come_from_the_shards_of_their_window():
    order = ShardOrder(SIZES, key=3, window_shards=3)
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    position, seen = 0, []
    while position < 2 * 50:
        window = order.window(position)
        assert window.first == position
        for inside in range(window.first, window.end):
            assert shard_of[order(inside)] in window.shards
            assert order.window(inside) == window
        seen.append(window.shards)
        position = window.end
    assert sorted(shard for shards in seen[:3] for shard in shards) == list(range(len(SIZES)))
    assert seen[:3] != seen[3:]


def test_a_large_source_is_put_in_order_without_a_list_of_its_samples():
    order = ShardOrder([10_000] * 50_000, key=1, window_shards=16)
    samples = {order(position) for position in range(2000)}
    assert len(samples) == 2000
    assert len({sample // 10_000 for sample in samples}) == 16


def test_nothing_cannot_be_put_in_order():
    with pytest.raises(ValueError, match="no samples"):
        ShardOrder([0, 0], key=1, window_shards=2)
