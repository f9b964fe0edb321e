from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from alignment import LINE, OFFSETS, at_offset, move_parameters
from numerics import ROUNDINGS, assert_equal_up_to_rounding, assert_within_error_budget


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_orders_of_a_sum_are_equal_up_to_rounding(dtype: torch.dtype) -> None:
    """A product of matrices forwards and backwards."""
    left, right = torch.randn(64, 500).to(dtype), torch.randn(500, 64).to(dtype)
    assert_equal_up_to_rounding(left.flip(1) @ right.flip(0), left @ right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_rounding_is_noticed(dtype: torch.dtype) -> None:
    expected = torch.randn(100).to(dtype)
    off = expected.clone()
    off[3] += 2 * ROUNDINGS * torch.finfo(dtype).eps * expected.abs().max()
    with pytest.raises(AssertionError, match="more than rounding does"):
        assert_equal_up_to_rounding(off, expected)
    with pytest.raises(AssertionError, match="more than rounding does"):
        assert_equal_up_to_rounding(expected * torch.nan, expected)
    with pytest.raises(AssertionError, match="bfloat16"):
        assert_equal_up_to_rounding(expected.bfloat16(), expected)
    with pytest.raises(AssertionError, match="bfloat16"):
        assert_equal_up_to_rounding(expected.bfloat16(), expected.bfloat16())
    with pytest.raises(AssertionError, match="Size"):
        assert_equal_up_to_rounding(expected[:1], expected)


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_parameter_begins_where_it_is_told(offset: int) -> None:
    layer = nn.Linear(5, 3)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    move_parameters(layer, offset)
    assert [parameter.data_ptr() % LINE for parameter in layer.parameters()] == [offset, offset]
    assert all(torch.equal(*pair) for pair in zip(layer.parameters(), before, strict=True)), "they are copies"
    layer(torch.ones(2, 5)).sum().backward()
    assert layer.weight.grad is not None


def test_a_double_cannot_begin_between_its_bytes() -> None:
    with pytest.raises(AssertionError, match="float64 cannot begin at byte 4"):
        at_offset(torch.ones(3, dtype=torch.float64), 4)


def test_with_odd_alignment_no_tensor_begins_where_the_last_one_did(tmp_path: Path) -> None:
    """In a process of its own: it cannot be undone."""
    program = (
        "import sys; from pathlib import Path; import torch; from alignment import LINE, begin_anywhere\n"
        "begin_anywhere(Path(sys.argv[1]))\n"
        "print(sorted({torch.ones(50).data_ptr() % LINE for _ in range(100)}))\n"
        "print((torch.ones(3, 5) @ torch.ones(5, 2)).tolist(), torch.nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 9, 9)).shape)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    places, product = said.splitlines()
    assert places == str(list(range(0, 64, 8)))
    assert product == f"{[[5.0, 5.0]] * 3} torch.Size([1, 1, 7, 7])"
