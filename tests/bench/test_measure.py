from __future__ import annotations

import math
import sys

import pytest
import torch

from bench import measure


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark of resident memory is read from /proc")
def test_peak_memory_is_what_was_held_at_once():
    mib = 2**20

    def hold_64_then_128_mib() -> None:
        first = torch.ones(16 * mib)
        del first
        second = torch.ones(32 * mib)
        assert second[-1] == 1

    peak = measure.peak_memory_bytes(hold_64_then_128_mib, "cpu")
    assert peak is not None, "this kernel does not let a process reset its own mark"
    assert 120 * mib < peak < 150 * mib


def test_relative_error_is_the_norm_of_the_difference():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert measure.relative_error(exact + torch.tensor([0.0, 0.5]), exact) == pytest.approx(0.1)


def test_the_worst_of_several_errors_counts_and_nan_is_infinite():
    exact = torch.ones(4)
    assert measure.worst_error([exact, 1.5 * exact], [exact, exact]) == pytest.approx(0.5)
    assert measure.worst_error([exact, exact * math.nan], [exact, exact]) == math.inf
