from __future__ import annotations

import math
import sys

import pytest
import torch

from bench import measure


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark of resident memory is read from /proc")
def test_peak_memory_is_what_was_held_at_once():
    mib = 2**20

    def one_after_the_other() -> None:  # the larger first: whether the allocator gives it back does not matter
        first = torch.ones(32 * mib)
        del first
        assert torch.ones(16 * mib)[-1] == 1

    def together() -> None:
        first, second = torch.ones(32 * mib), torch.ones(16 * mib)
        assert first[-1] == second[-1]

    for run, held_mib in ((one_after_the_other, 128), (together, 192)):
        peak = measure.peak_memory_bytes(run, "cpu")
        if peak is None:
            pytest.skip("this machine does not let a process reset its own mark")
        assert 0.94 * held_mib * mib < peak < 1.15 * held_mib * mib


def test_relative_error_is_the_norm_of_the_difference():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert measure.relative_error(exact + torch.tensor([0.0, 0.5]), exact) == pytest.approx(0.1)


def test_the_worst_of_several_errors_counts_and_nan_is_infinite():
    exact = torch.ones(4)
    assert measure.worst_error([exact, 1.5 * exact], [exact, exact]) == pytest.approx(0.5)
    assert measure.worst_error([exact, exact * math.nan], [exact, exact]) == math.inf
