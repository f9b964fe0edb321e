import math

import pytest

from trainer.config import OptimConfig
from trainer.step.lr_schedule import learning_rate_factor


def test_schedule():
    cosine = OptimConfig(warmup_steps=4)
    factors = [learning_rate_factor(step, 12, cosine) for step in range(12)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert factors[4:] == sorted(factors[4:], reverse=True)
    level = OptimConfig(warmup_steps=2, schedule="constant")
    assert [learning_rate_factor(step, 5, level) for step in range(5)] == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert learning_rate_factor(0, 1, OptimConfig(warmup_steps=0)) == 1.0
    assert learning_rate_factor(2, 3, OptimConfig(warmup_steps=9)) == pytest.approx(3 / 9)  # a run within its warm-up
