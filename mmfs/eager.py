"""Calls of the ops without PyTorch's dispatcher, where `dispatch.is_needed` says that nobody has to hear of them: the
implementations are called at once and, if a gradient is wanted, in a `torch.autograd.Function`.

The results are those of the registered operators. What the kernels do not compute, second derivatives among them, is
computed by these operators here too: the gradients are those of autograd.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmfs import autograd, compiled, cuda, derivatives
from mmfs.arguments import MMFSAttentionArguments, MSDeformAttnArguments
from mmfs.reference import LARGEST_FLOAT32


class MSDeformAttn(Function):
    """`torch.ops.mmfs.ms_deform_attn` with a gradient."""

    @staticmethod
    def forward(ctx: Any, *fields: Any) -> Tensor:
        derivatives.keep(ctx, fields)
        arguments = MSDeformAttnArguments(*fields)
        result: Tensor = autograd.implementation(arguments.value).ms_deform_attn_forward(arguments)
        return result

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        return autograd.differentiate_ms_deform_attn(ctx, grad_out)


class MMFSAttention(Function):
    """`torch.ops.mmfs.mmfs_attention` with a gradient. The call is one that the compiled kernel read, or None."""

    @staticmethod
    def forward(ctx: Any, call: compiled.MMFSAttentionCall | None, *fields: Any) -> Tensor:
        arguments = MMFSAttentionArguments(*fields)
        lse: Tensor | None = None
        out: Tensor
        if call is not None:
            out = compiled.output_of(call, arguments)
        elif (computes := autograd.implementation(arguments.value)) is cuda:
            out, lse = cuda.mmfs_attention_with_lse(arguments)
        else:
            out = computes.mmfs_attention_forward(arguments)
        derivatives.keep(ctx, fields, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        return None, *autograd.differentiate_mmfs_attention(ctx, grad_out, first=1)


_differentiable_ms_deform_attn: Any = MSDeformAttn.apply
_differentiable_mmfs_attention: Any = MMFSAttention.apply


def ms_deform_attn(arguments: MSDeformAttnArguments) -> Tensor:
    """`torch.ops.mmfs.ms_deform_attn` of arguments that were checked."""
    out: Tensor
    if wants_gradient(arguments):
        out = _differentiable_ms_deform_attn(*arguments)
    else:
        out = autograd.implementation(arguments.value).ms_deform_attn_forward(arguments)
    return out


def mmfs_attention(arguments: MMFSAttentionArguments) -> Tensor:
    """`torch.ops.mmfs.mmfs_attention` of arguments that were checked."""
    out: Tensor
    if wants_gradient(arguments):
        out = _differentiable_mmfs_attention(None, *arguments)
    else:
        out = autograd.implementation(arguments.value).mmfs_attention_forward(arguments)
    return out


def mmfs_attention_in_c(arguments: MMFSAttentionArguments) -> Tensor | None:
    """`torch.ops.mmfs.mmfs_attention` of arguments that are checked in C, with all of the call but its output; None if
    they have to be converted, or are wrong: `functional.checked_mmfs_attention` says how."""
    null_logit = arguments.null_logit
    if null_logit is not None and (type(null_logit) is not float or not abs(null_logit) <= LARGEST_FLOAT32):
        return None
    if arguments.value is None or autograd.implementation(arguments.value) is not compiled:
        return None
    if (call := compiled.read_mmfs_attention(arguments)) is None:
        return None
    if not wants_gradient(arguments):
        return compiled.output_of(call, arguments)
    if arguments.reference_points.ndim < 3:
        points = arguments.reference_points.expand(*arguments.attention_logits.shape[:2], 2)
        arguments = arguments._replace(reference_points=points)
    out: Tensor = _differentiable_mmfs_attention(call, *arguments)
    return out


def wants_gradient(fields: Iterable[object]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(field, Tensor) and field.requires_grad for field in fields)
