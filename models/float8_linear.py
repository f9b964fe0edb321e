"""Frozen linear layers whose weights are held in float8: a byte a number, and gradients for what they are given.

PyTorch has no such layer, and of torchao 0.18 the weight-only configuration keeps each weight in bfloat16 from the
forward to the backward, the one with float8 activations has no backward, and `torchao.float8` holds all weights in
bfloat16 (bench/LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.sharded_tensors import full_tensor

KIND = torch.float8_e4m3fn
"""Four bits of exponent and three of fraction: a number is rounded by a sixteenth of itself at most."""


class Float8Linear(nn.Module):
    """A linear layer whose weight does not learn; its bias, if there is one, may.

    It is multiplied in the dtype of its input, or of autocast, and made again for the backward: between the two, and of
    the input, nothing is kept. Scales are powers of two, by which a weight is the same number in float32 and bfloat16.

    Args:
        weight: [outputs, inputs], frozen; on the meta device, so is what becomes of it.
        bias: [outputs], or None.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        """Of the weight that this layer was made of."""
        values, scale = to_float8(weight.detach())
        # As bytes, which FSDP2 leaves as they are where it gathers numbers in bfloat16, and every backend can send.
        self.weight = nn.Parameter(values, requires_grad=False)  # [outputs, inputs] uint8
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # [outputs] float32
        self.bias = bias

    def forward(self, rows: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        flat = rows.to(dtype).flatten(0, -2)
        product = _Product.apply(flat, self.weight, self.weight_scale).unflatten(0, rows.shape[:-1])
        return product if self.bias is None else product + self.bias.to(dtype)

    def full_weight(self) -> Tensor:
        """[outputs, inputs] in `dtype`, with the values that are multiplied; a collective where it is sharded."""
        return from_float8(full_tensor(self.weight), full_tensor(self.weight_scale), self.dtype)

    def extra_repr(self) -> str:
        """As of `nn.Linear`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Product(torch.autograd.Function):
    """[tokens, inputs] @ weight.T, which remembers the weight in float8 alone."""

    @staticmethod
    def forward(rows: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        return rows @ from_float8(values, scale, rows.dtype).t()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        values, scale = ctx.saved_tensors
        return gradients[0] @ from_float8(values, scale, gradients[0].dtype), None, None


def to_float8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] of floats -> the bytes of float8 numbers [rows, columns] uint8, and the scale of each row, [rows]
    float32: the least power of two by which its largest number fits. Values that come out of float8 go into it as they
    are; of a row that is not finite, all become NaN."""
    if matrix.is_meta:
        return torch.empty_like(matrix, dtype=torch.uint8), matrix.new_empty(len(matrix), dtype=torch.float32)
    numbers = matrix.float()
    largest = numbers.abs().amax(dim=1)
    fraction, exponent = torch.frexp(largest / torch.finfo(KIND).max)
    exponent = (exponent - (fraction == 0.5).to(exponent.dtype)).clamp(min=-126)  # float32 has no smaller power
    scale = torch.ldexp(torch.ones_like(fraction), exponent).where(largest.isfinite(), torch.nan)
    return (numbers / scale.unsqueeze(1)).to(KIND).view(torch.uint8), scale


def from_float8(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The reverse: [rows, columns] in a dtype."""
    return values.view(KIND).to(dtype).mul_(scale.to(dtype).unsqueeze(1))
