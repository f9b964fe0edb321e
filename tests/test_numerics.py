from __future__ import annotations

import pytest
import torch

from numerics import assert_within_error_budget


def test_error_budget_accepts_the_baseline_itself_and_twice_its_error() -> None:
    exact = torch.randn(100, dtype=torch.float64)
    baseline = exact.bfloat16()
    assert_within_error_budget(baseline, baseline=baseline, exact=exact)
    doubled = (exact + 2 * (baseline.double() - exact)).float()
    assert_within_error_budget(doubled, baseline=baseline.float(), exact=exact)


def test_error_budget_refuses_a_small_offset() -> None:
    exact = torch.randn(100, dtype=torch.float64)
    with pytest.raises(AssertionError, match="exceeds 2 times"):
        assert_within_error_budget(exact.float() + 1e-4, baseline=exact.float(), exact=exact)


def test_error_budget_refuses_nan() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    actual = torch.tensor([1.0, torch.nan, 1.0])
    with pytest.raises(AssertionError, match="exceeds"):
        assert_within_error_budget(actual, baseline=exact.float(), exact=exact)


def test_error_budget_refuses_other_dtypes_and_shapes() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="bfloat16"):
        assert_within_error_budget(exact.float(), baseline=exact.bfloat16(), exact=exact)
    with pytest.raises(AssertionError, match="Size"):
        assert_within_error_budget(exact[:2].float(), baseline=exact.float(), exact=exact)


def test_error_budget_of_nothing_is_kept() -> None:
    nothing = torch.empty(0, 4)
    assert_within_error_budget(nothing, baseline=nothing, exact=nothing.double())
