"""How tests compare numbers."""

from __future__ import annotations

from torch import Tensor


def assert_within_error_budget(
    actual: Tensor, *, baseline: Tensor, exact: Tensor, factor: float = 2.0, floor: float = 1e-6
) -> None:
    """`actual` may err by `factor` times what plain PyTorch errs in the same dtype.

    Args:
        actual: what is tested.
        baseline: plain PyTorch's result in the same dtype.
        exact: the result in float64.
        factor: how many times the baseline's largest error is allowed.
        floor: error that is always allowed, over the largest element of exact: where the baseline happens to be exact.
    """
    assert actual.dtype == baseline.dtype, f"{actual.dtype} is compared with a baseline in {baseline.dtype}"
    assert actual.shape == baseline.shape == exact.shape, f"{actual.shape}, {baseline.shape}, {exact.shape}"
    if exact.numel() == 0:
        return
    budget = factor * (baseline.double() - exact).abs().max() + floor * exact.abs().max()
    error = (actual.double() - exact).abs().max()
    assert error <= budget, f"error {error:.2e} exceeds {factor:g} times PyTorch's own plus the floor ({budget:.2e})"
