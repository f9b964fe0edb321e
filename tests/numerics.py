"""How tests compare numbers."""

from __future__ import annotations

from torch import Tensor

FACTOR = 2
"""How many times the baseline's largest error is allowed."""


def assert_within_error_budget(actual: Tensor, *, baseline: Tensor, exact: Tensor, floor: float = 1e-6) -> None:
    """`actual` may err by `FACTOR` times what plain PyTorch errs in the same dtype.

    Args:
        actual: what is tested.
        baseline: plain PyTorch's result in the same dtype.
        exact: the result in float64.
        floor: error that is always allowed, over the largest element of exact: where the baseline happens to be exact.
    """
    assert actual.dtype == baseline.dtype, f"{actual.dtype} is compared with a baseline in {baseline.dtype}"
    assert actual.shape == baseline.shape == exact.shape, f"{actual.shape}, {baseline.shape}, {exact.shape}"
    if exact.numel() == 0:
        return
    budget = FACTOR * (baseline.double() - exact).abs().max() + floor * exact.abs().max()
    error = (actual.double() - exact).abs().max()
    assert error <= budget, f"error {error:.2e} exceeds {FACTOR} times PyTorch's own plus the floor ({budget:.2e})"
