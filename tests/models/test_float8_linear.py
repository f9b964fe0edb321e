"""Linear layers held in float8: their rounding, their gradients, and what they keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.float8_linear import KIND, Float8Linear, from_float8, to_float8
from numerics import FLOAT32_ROUNDING

LARGEST = torch.finfo(KIND).max


def matrix(num_rows: int = 12, num_columns: int = 40) -> Tensor:
    """Rows of very different sizes, one of zeros, and one whose largest number is at the border between two scales."""
    rows = torch.randn(num_rows, num_columns) * torch.logspace(-6, 4, num_rows).unsqueeze(1)
    rows[3] = 0
    rows[4] = torch.linspace(-1, 1, num_columns) * LARGEST / 1024
    rows[5] = rows[5] / rows[5].abs().max() * LARGEST / 64 * (1 - 2**-7)  # is rounded up to the border
    return rows


def test_a_number_is_rounded_by_a_sixteenth_of_itself_at_most() -> None:
    rows = matrix()
    values, scale = to_float8(rows)
    assert (values.dtype, scale.dtype) == (torch.uint8, torch.float32)
    assert torch.equal(torch.frexp(scale)[0], torch.full_like(scale, 0.5)), "a power of two"
    least_normal = torch.finfo(KIND).tiny * scale.unsqueeze(1)
    error = (from_float8(values, scale, torch.float32) - rows).abs()
    assert (error <= torch.maximum(rows.abs(), least_normal) / 16).all()
    largest = rows.abs().amax(1) / scale
    assert (largest[rows.any(1)] > LARGEST / 2).all()
    assert (largest <= LARGEST).all()


def test_bfloat16_has_the_very_values_and_they_become_themselves_again() -> None:
    values, scale = to_float8(matrix())
    exact = from_float8(values, scale, torch.float32)
    halved = from_float8(values, scale, torch.bfloat16)
    assert torch.equal(halved.float(), exact)
    assert torch.equal(from_float8(*to_float8(halved), torch.float32), exact)


def test_an_infinite_number_does_not_become_a_finite_one() -> None:
    rows = torch.ones(3, 3)
    rows[0, 1], rows[1, 1] = torch.nan, torch.inf
    assert from_float8(*to_float8(rows), torch.float32).isfinite().all(1).tolist() == [False, False, True]


@pytest.mark.parametrize("leading", [(7,), (2, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradients_are_those_of_the_rounded_weight(leading: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(40, 12, bias=bias)
    linear.weight.requires_grad_(False)
    layer = Float8Linear(linear.weight, linear.bias)
    given = torch.randn(*leading, 40, requires_grad=True)
    expected = F.linear(given, layer.full_weight(), linear.bias)
    assert 0 < float(((expected - linear(given)).norm() / expected.norm()).detach()) < 0.05
    weights = torch.randn_like(expected)
    learning = [given, *([layer.bias] if layer.bias is not None else [])]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), learning)
    output = layer(given)
    torch.testing.assert_close(output, expected, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
    for found, wanted in zip(torch.autograd.grad((output * weights).sum(), learning), expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)


def test_it_is_multiplied_in_the_dtype_of_autocast() -> None:
    layer = Float8Linear(nn.Parameter(torch.randn(12, 40), requires_grad=False))
    given = torch.randn(3, 40, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(given)
    assert output.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(output.sum(), given)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, layer.full_weight().sum(0).expand_as(gradient), rtol=0.01, atol=0.01)


def test_nothing_but_the_float8_weight_is_kept_for_the_backward() -> None:
    layer = Float8Linear(nn.Parameter(torch.randn(12, 40), requires_grad=False))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(3, 40, requires_grad=True))
    held = {parameter.data_ptr() for parameter in layer.parameters()}
    assert kept
    assert {tensor.data_ptr() for tensor in kept} <= held
