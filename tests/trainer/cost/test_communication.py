"""What GPUs send each other, against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.config import TrainConfig
from trainer.cost.communication import Communication, communication, seconds
from trainer.cost.gpu_memory import LayerBytes, Machine, Parameters
from trainer.recipes import RECIPES
from trainer.system_config import ParallelConfig

PARAMETERS = Parameters(
    trainable={"language model": 1000, "U-Net": 500},
    frozen={},
    frozen_bytes=0,
    layers=(LayerBytes(frozen=600, trained=2000), LayerBytes(frozen=0, trained=2000)),
)


def run(**parallel: object) -> TrainConfig:
    return replace(RECIPES["tiny"](), precision="bfloat16", parallel=ParallelConfig(**parallel))  # type: ignore[arg-type]


def test_all_at_once() -> None:
    """6,000 bytes are gathered, and as many of gradients scattered; of 4 GPUs, each sends three quarters."""
    sent = communication(run(), Machine(4, 1), PARAMETERS, num_micro_batches=3)
    assert sent == Communication(waited_for=2 * 0.75 * 6000, beside=0, between_copies=0)


def test_layer_by_layer() -> None:
    """4,600 bytes of layers twice, and 4,000 of gradients, for each micro-batch; the other 2,000 once each way."""
    sent = communication(run(shard_layers=True), Machine(4, 1), PARAMETERS, num_micro_batches=3)
    assert sent == Communication(waited_for=2 * 0.75 * 2000, beside=3 * 0.75 * (2 * 4600 + 4000), between_copies=0)
    halved = communication(run(shard_layers=True, gather_dtype="bfloat16"), Machine(4, 1), PARAMETERS, 3)
    assert halved == replace(sent, beside=3 * 0.75 * (2 * 2600 + 4000))


def test_copies() -> None:
    """Two groups of two: half of what each has is gathered within the group, and sums of shards go between them."""
    sent = communication(run(shard_size=2), Machine(4, 1), PARAMETERS, num_micro_batches=1)
    assert sent == Communication(waited_for=2 * 0.5 * 6000, beside=0, between_copies=2 * 0.5 * 3000)


def test_a_group_within_a_node_uses_its_links() -> None:
    sent = Communication(waited_for=100, beside=40, between_copies=10)
    assert seconds(sent, Machine(16, 1), 8, (10, 5)) == pytest.approx((100 / 10 + 10 / 5, 4))
    assert seconds(sent, Machine(16, 1), 0, (10, 5)) == pytest.approx((100 / 5 + 10 / 5, 8))
    assert seconds(sent, Machine(8, 1), 0, (10, 5)) == pytest.approx((100 / 10 + 10 / 10, 4))
