"""How tests compare numbers."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 2
"""How many times the baseline's largest error is allowed."""

ROUNDINGS = 16
"""How many units in the last place of the largest element two results of one computation may differ by. A network of
the tests' size errs by up to 4.3 of them in float32 against float64 (the visual tokens of the tiny model), so two such
results lie up to twice that apart, and `FACTOR` times that is allowed."""

FLOAT32_ROUNDING = ROUNDINGS * torch.finfo(torch.float32).eps
"""As `rel` of `pytest.approx`, for a float32 number such as a loss."""


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


def assert_equal_up_to_rounding(actual: Tensor, expected: Tensor) -> None:
    """Both come from the same numbers by the same computation, made twice: from another copy of the weights, in another
    process or with another number of threads. Sums may then be taken in another order, as matrix products do where
    their arguments begin at other addresses.

    Args:
        actual: what is tested, any shape.
        expected: the same shape and dtype, float32 or float64. In half types, where 16 roundings are an eighth of the
            number, compare with `assert_within_error_budget`.
    """
    assert expected.dtype in (torch.float32, torch.float64), expected.dtype
    assert actual.dtype == expected.dtype, f"{actual.dtype} is compared with {expected.dtype}"
    assert actual.shape == expected.shape, f"{actual.shape} is compared with {expected.shape}"
    if expected.numel() == 0:
        return
    assert expected.isfinite().all()
    budget = ROUNDINGS * torch.finfo(expected.dtype).eps * expected.double().abs().max()
    difference = (actual.double() - expected.double()).abs().max()
    assert difference <= budget, f"they differ by {difference:.2e}, which is more than rounding does ({budget:.2e})"


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Of a whole model, by name, made twice. Back through all layers, PyTorch's own float32 gradients err by up to 1e-4
    of the largest, against float64."""
    assert actual.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=0, atol=4 * FLOAT32_ROUNDING * largest)
