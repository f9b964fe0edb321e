"""Both ops as torch.library operators: schema, shapes, gradient. One node each under torch.compile and torch.export.

`torch.ops.mmfs.ms_deform_attn` and `torch.ops.mmfs.mmfs_attention` take the fields of the structures in arguments.py,
which functional.py has checked. The sizes of the levels are a flat list of ints, h, w, h, w, ...: constants of a
graph, or expressions of it where the sizes of its inputs may vary. The gradients are operators too. What the kernels do
not compute (second derivatives, tangents, torch.func's transforms) is in derivatives.py.

`mmfs_attention_with_lse` is mmfs_attention for a call that will be differentiated: where the CUDA kernels compute,
it also keeps the log-sum-exp for the backward. The backward of mmfs_attention itself computes it again.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmfs import compiled, cuda, derivatives, dispatch, embedding_bag
from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
    schema,
)
from mmfs.reference import accumulation_dtype


def implementation(value: Tensor) -> ModuleType:
    """The module that computes a call with this value: one of three with the same four functions."""
    if value.is_cuda:
        return embedding_bag if cuda.why_not(value) else cuda
    return embedding_bag if compiled.why_not(value) else compiled


# An operator is called with the fields of a structure one by one. ctx is Any: torch gives a context object that has no
# public type.
# ---------------------------------------------------------------------------------------------------------------------
# ms_deform_attn


def _ms_deform_attn(*fields: Any) -> Tensor:
    derivatives.check_no_tangent(fields)
    arguments = MSDeformAttnArguments(*fields)
    result: Tensor = implementation(arguments.value).ms_deform_attn_forward(arguments)
    return result


def _ms_deform_attn_fake(*fields: Any) -> Tensor:
    arguments = MSDeformAttnArguments(*fields)
    return _empty_output(arguments.value, arguments.attention_weights)


def _ms_deform_attn_backward(grad_out: Tensor, needs_value: bool, *fields: Any) -> MSDeformAttnGradients:
    derivatives.check_no_tangent((grad_out, *fields))
    arguments = MSDeformAttnArguments(*fields)
    result: MSDeformAttnGradients = implementation(arguments.value).ms_deform_attn_backward(
        grad_out, arguments, needs_value
    )
    return result


def _ms_deform_attn_backward_fake(grad_out: Tensor, needs_value: bool, *fields: Any) -> MSDeformAttnGradients:
    arguments = MSDeformAttnArguments(*fields)
    return MSDeformAttnGradients(
        value=_empty_like(arguments.value) if needs_value else arguments.value.new_empty(0),
        sampling_locations=_empty_like(arguments.sampling_locations),
        attention_weights=_empty_like(arguments.attention_weights),
    )


def differentiate_ms_deform_attn(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    fields, _ = derivatives.restored(ctx)
    needs_value = ctx.needs_input_grad[0]
    if _is_first_gradient(grad_out, fields):
        gradients = _ms_deform_attn_backward(grad_out, needs_value, *fields)
    else:
        backward = derivatives if derivatives.forward_mode() else torch.ops.mmfs
        gradients = MSDeformAttnGradients(*backward.ms_deform_attn_backward(grad_out, needs_value, *fields))
    return _gradients_of(needs_value, MSDeformAttnArguments._fields, fields, gradients)


def _differentiate_ms_deform_attn_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    (grad_out, needs_value, *fields), _ = derivatives.restored(ctx)
    arguments = MSDeformAttnArguments(*fields)
    named = MSDeformAttnGradients(*grads)._asdict()
    of_grad_out, of_fields = derivatives.second(
        derivatives.MS_DEFORM_ATTN, _of_given(arguments, needs_value, named), grad_out, arguments
    )
    return of_grad_out, None, *of_fields


# ---------------------------------------------------------------------------------------------------------------------
# mmfs_attention


def _mmfs_attention(*fields: Any) -> Tensor:
    derivatives.check_no_tangent(fields)
    arguments = MMFSAttentionArguments(*fields)
    result: Tensor = implementation(arguments.value).mmfs_attention_forward(arguments)
    return result


def _mmfs_attention_fake(*fields: Any) -> Tensor:
    arguments = MMFSAttentionArguments(*fields)
    return _empty_output(arguments.value, arguments.attention_logits)


def _mmfs_attention_with_lse(*fields: Any) -> tuple[Tensor, Tensor]:
    derivatives.check_no_tangent(fields)
    arguments = MMFSAttentionArguments(*fields)
    computes = implementation(arguments.value)
    if computes is not cuda:
        return computes.mmfs_attention_forward(arguments), _no_lse(arguments.value)
    return cuda.mmfs_attention_with_lse(arguments)


def _mmfs_attention_with_lse_fake(*fields: Any) -> tuple[Tensor, Tensor]:
    value, attention_logits = (arguments := MMFSAttentionArguments(*fields)).value, arguments.attention_logits
    out = _empty_output(value, attention_logits)
    if implementation(value) is not cuda:
        return out, _no_lse(value)
    return out, value.new_empty(attention_logits.shape[:3], dtype=accumulation_dtype(value.dtype))


def _no_lse(value: Tensor) -> Tensor:
    return value.new_empty(0, dtype=accumulation_dtype(value.dtype))


def _mmfs_attention_backward(
    grad_out: Tensor, needs_value: bool, lse: Tensor | None, *fields: Any
) -> MMFSAttentionGradients:
    derivatives.check_no_tangent((grad_out, *fields))
    arguments = MMFSAttentionArguments(*fields)
    computes = implementation(arguments.value)
    kept = {"lse": lse} if computes is cuda else {}
    result: MMFSAttentionGradients = computes.mmfs_attention_backward(grad_out, arguments, needs_value, **kept)
    return result


def _mmfs_attention_backward_fake(
    grad_out: Tensor, needs_value: bool, lse: Tensor | None, *fields: Any
) -> MMFSAttentionGradients:
    arguments = MMFSAttentionArguments(*fields)
    value, dtype = arguments.value, accumulation_dtype(arguments.value.dtype)
    given = (getattr(arguments, name) for name in MMFSAttentionGradients._fields[1:])
    return MMFSAttentionGradients(
        _empty_like(value) if needs_value else value.new_empty(0),
        *(value.new_empty(0, dtype=dtype) if tensor is None else _empty_like(tensor) for tensor in given),
    )


def differentiate_mmfs_attention(
    ctx: Any, grad_out: Tensor, _: Tensor | None = None, *, first: int = 0
) -> tuple[Tensor | None, ...]:
    """first: the place of value among the inputs."""
    fields, (lse,) = derivatives.restored(ctx)
    needs_value = ctx.needs_input_grad[first]
    if _is_first_gradient(grad_out, fields):
        gradients = _mmfs_attention_backward(grad_out, needs_value, lse, *fields)
    else:
        backward = derivatives if derivatives.forward_mode() else torch.ops.mmfs
        gradients = MMFSAttentionGradients(*backward.mmfs_attention_backward(grad_out, needs_value, lse, *fields))
    return _gradients_of(needs_value, MMFSAttentionArguments._fields, fields, gradients)


def _differentiate_mmfs_attention_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    (grad_out, needs_value, _, *fields), _ = derivatives.restored(ctx)
    arguments = MMFSAttentionArguments(*fields)
    named = MMFSAttentionGradients(*grads)._asdict()
    of_grad_out, of_fields = derivatives.second(
        derivatives.MMFS_ATTENTION, _of_given(arguments, needs_value, named), grad_out, arguments
    )
    return of_grad_out, None, None, *of_fields


def _mmfs_attention_with_lse_transformed(*fields: Any) -> tuple[Tensor, Tensor]:
    # The gradient under a transform computes the log-sum-exp again.
    return derivatives.mmfs_attention(*fields), _no_lse(MMFSAttentionArguments(*fields).value)


# ---------------------------------------------------------------------------------------------------------------------
# Both


def _empty_output(value: Tensor, weights: Tensor) -> Tensor:
    """[B, Q, H*D], for attention weights or logits [B, Q, H, L, P]."""
    batch, num_queries, num_heads = weights.shape[:3]
    return value.new_empty(batch, num_queries, num_heads * value.shape[-1])


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    derivatives.keep(ctx, inputs)


def _save_without_lse(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    derivatives.keep(ctx, inputs, None)


def _save_with_lse(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    derivatives.keep(ctx, inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _is_first_gradient(grad_out: Tensor, fields: list[Any]) -> bool:
    """Whether the gradient is nothing but its numbers: it is not differentiated, and nobody has to hear of its call."""
    tensors = [field for field in fields if isinstance(field, Tensor)]
    return not torch.is_grad_enabled() and not dispatch.is_needed((grad_out, *tensors))


def _gradients_of(
    needs_value: bool, names: tuple[str, ...], fields: list[Any], gradients: Any
) -> tuple[Tensor | None, ...]:
    """One for each field: None where it was not asked for, or where there is no tensor to have one."""
    named = gradients._asdict()
    if not needs_value:
        del named["value"]
    return tuple([None if field is None else named.get(name) for name, field in zip(names, fields, strict=True)])


def _of_given(
    arguments: MSDeformAttnArguments | MMFSAttentionArguments, needs_value: bool, named: dict[str, Tensor]
) -> list[Tensor]:
    """Of the gradients of a backward's outputs those of arguments that are given; value's is zero if it had none."""
    if not needs_value:
        named["value"] = torch.zeros_like(arguments.value)
    return [gradient for name, gradient in named.items() if getattr(arguments, name) is not None]


# `define` and `impl` rather than `custom_op`, which imports torch._dynamo (seconds) at the first call of every process.
PORTABLE = "CompositeExplicitAutograd"  # any device, below autograd
MS_DEFORM_ATTN, MMFS_ATTENTION = schema(MSDeformAttnArguments), schema(MMFSAttentionArguments)
THREE_TENSORS, SEVEN_TENSORS = (
    f"({', '.join(['Tensor'] * len(gradients._fields))})"
    for gradients in (MSDeformAttnGradients, MMFSAttentionGradients)
)
TRANSFORMS = "FuncTorchDynamicLayerFrontMode"  # whatever torch.func's transforms are applied to comes here first
_library = torch.library.Library("mmfs", "FRAGMENT")
for _name, _schema, _forward, _fake, _transformed in (
    (
        "ms_deform_attn",
        f"({MS_DEFORM_ATTN}) -> Tensor",
        _ms_deform_attn,
        _ms_deform_attn_fake,
        derivatives.ms_deform_attn,
    ),
    (
        "ms_deform_attn_backward",
        f"(Tensor grad_out, bool needs_value, {MS_DEFORM_ATTN}) -> {THREE_TENSORS}",
        _ms_deform_attn_backward,
        _ms_deform_attn_backward_fake,
        derivatives.ms_deform_attn_backward,
    ),
    (
        "mmfs_attention",
        f"({MMFS_ATTENTION}) -> Tensor",
        _mmfs_attention,
        _mmfs_attention_fake,
        derivatives.mmfs_attention,
    ),
    (
        "mmfs_attention_with_lse",
        f"({MMFS_ATTENTION}) -> (Tensor, Tensor)",
        _mmfs_attention_with_lse,
        _mmfs_attention_with_lse_fake,
        _mmfs_attention_with_lse_transformed,
    ),
    (
        "mmfs_attention_backward",
        f"(Tensor grad_out, bool needs_value, Tensor? lse, {MMFS_ATTENTION}) -> {SEVEN_TENSORS}",
        _mmfs_attention_backward,
        _mmfs_attention_backward_fake,
        derivatives.mmfs_attention_backward,
    ),
):
    torch.library.define(f"mmfs::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"mmfs::{_name}", PORTABLE, _forward)
    torch.library.register_fake(f"mmfs::{_name}", _fake)
    _library.impl(_name, _transformed, TRANSFORMS)
for _name, _differentiate, _setup in (
    ("ms_deform_attn", differentiate_ms_deform_attn, _save),
    ("ms_deform_attn_backward", _differentiate_ms_deform_attn_backward, _save),
    ("mmfs_attention", differentiate_mmfs_attention, _save_without_lse),
    ("mmfs_attention_with_lse", differentiate_mmfs_attention, _save_with_lse),
    ("mmfs_attention_backward", _differentiate_mmfs_attention_backward, _save),
):
    torch.library.register_autograd(f"mmfs::{_name}", _differentiate, setup_context=_setup)
