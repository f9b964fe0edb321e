"""Both ops as torch.library operators: schema, shapes, gradient. One node each under torch.compile and torch.export.

`torch.ops.mmfs.ms_deform_attn` and `torch.ops.mmfs.mmfs_attention` take checked arguments from functional.py. The sizes
of the levels are a flat list of ints, h, w, h, w, ...: constants of the graph, which exporters need. The gradients are
operators too; they have no gradient of their own, and the reference has.

`mmfs_attention_with_lse` is mmfs_attention for a call that will be differentiated: where the CUDA kernels compute,
it also keeps the log-sum-exp for the backward. The backward of mmfs_attention itself computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmfs import compiled, cuda, embedding_bag
from mmfs.reference import accumulation_dtype

NO_DOUBLE_BACKWARD = (
    "mmfs cannot differentiate its gradient again: backward was called with create_graph=True, or through a gradient. "
    "Expected a first-order gradient. Call the op with backend='reference' to differentiate twice."
)


torch.library.define(
    "mmfs::ms_deform_attn",
    "(Tensor value, int[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "mmfs::ms_deform_attn_backward",
    "(Tensor grad_out, Tensor value, int[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights, "
    "bool needs_value) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
# spatial_shapes is empty when image_shapes [N, L, 2] holds the sizes of each image.
MMFS_ARGUMENTS = (
    "Tensor value, int[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, "
    "Tensor visible, Tensor? offset_table, Tensor? logit_table, float? null_logit, Tensor? null_value, "
    "Tensor? image_shapes"
)
torch.library.define(
    "mmfs::mmfs_attention",
    f"({MMFS_ARGUMENTS}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "mmfs::mmfs_attention_with_lse",
    f"({MMFS_ARGUMENTS}) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "mmfs::mmfs_attention_backward",
    f"(Tensor grad_out, {MMFS_ARGUMENTS}, bool needs_value, Tensor? lse=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
# `define` and `impl` rather than `custom_op`, which imports torch._dynamo (seconds) at the first call of every process.
PORTABLE = "CompositeExplicitAutograd"  # any device, below autograd


def implementation(value: Tensor) -> ModuleType:
    """Who computes a call with this value: one of three modules with the same four functions."""
    if value.is_cuda:
        return embedding_bag if cuda.why_not(value) else cuda
    return embedding_bag if compiled.why_not(value) else compiled


def _ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    result: Tensor = implementation(value).ms_deform_attn_forward(
        value, spatial_shapes, sampling_locations, attention_weights
    )
    return result


def _ms_deform_attn_fake(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    batch, num_queries, num_heads = attention_weights.shape[:3]
    return value.new_empty(batch, num_queries, num_heads * value.shape[-1])


def _ms_deform_attn_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = implementation(value).ms_deform_attn_backward(
        grad_out, value, spatial_shapes, sampling_locations, attention_weights, needs_value
    )
    return result


def _ms_deform_attn_backward_fake(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_value = _empty_like(value) if needs_value else value.new_empty(0)
    return grad_value, _empty_like(sampling_locations), _empty_like(attention_weights)


def _mmfs_attention(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
    image_shapes: Tensor | None,
) -> Tensor:
    result: Tensor = implementation(value).mmfs_attention_forward(
        value,
        spatial_shapes if image_shapes is None else image_shapes,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_logit,
        null_value,
    )
    return result


def _mmfs_attention_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
    image_shapes: Tensor | None,
) -> Tensor:
    batch, num_queries, num_heads = attention_logits.shape[:3]
    return value.new_empty(batch, num_queries, num_heads * value.shape[-1])


def _mmfs_attention_with_lse(value: Tensor, spatial_shapes: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor]:
    computes = implementation(value)
    if computes is not cuda:
        return _mmfs_attention(value, spatial_shapes, *rest), _no_lse(value)
    *given, image_shapes = rest
    sizes = spatial_shapes if image_shapes is None else image_shapes
    return cuda.mmfs_attention_with_lse(value, sizes, *given)


def _mmfs_attention_with_lse_fake(value: Tensor, spatial_shapes: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor]:
    out = _mmfs_attention_fake(value, spatial_shapes, *rest)
    if implementation(value) is not cuda:
        return out, _no_lse(value)
    attention_logits: Tensor = rest[2]
    return out, value.new_empty(attention_logits.shape[:3], dtype=accumulation_dtype(value.dtype))


def _no_lse(value: Tensor) -> Tensor:
    return value.new_empty(0, dtype=accumulation_dtype(value.dtype))


def _mmfs_attention_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
    image_shapes: Tensor | None,
    needs_value: bool,
    lse: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    computes = implementation(value)
    kept = {"lse": lse} if computes is cuda else {}
    result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = computes.mmfs_attention_backward(
        grad_out,
        value,
        spatial_shapes if image_shapes is None else image_shapes,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_logit,
        null_value,
        needs_value,
        **kept,
    )
    return result


def _mmfs_attention_backward_fake(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
    image_shapes: Tensor | None,
    needs_value: bool,
    lse: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(tensor: Tensor | None) -> Tensor:
        return value.new_empty(0, dtype=working) if tensor is None else _empty_like(tensor)

    working = accumulation_dtype(value.dtype)
    return (
        _empty_like(value) if needs_value else value.new_empty(0),
        _empty_like(reference_points),
        _empty_like(sampling_offsets),
        _empty_like(attention_logits),
        like(offset_table),
        like(logit_table),
        like(null_value),
    )


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


# ctx is Any: torch gives a context object that has no public type.


def _save_ms_deform_attn(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)


def _differentiate_ms_deform_attn(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    value, sampling_locations, attention_weights = ctx.saved_tensors
    needs_value = ctx.needs_input_grad[0]
    grad_value, grad_locations, grad_weights = torch.ops.mmfs.ms_deform_attn_backward(
        grad_out, value, ctx.spatial_shapes, sampling_locations, attention_weights, needs_value
    )
    return grad_value if needs_value else None, None, grad_locations, grad_weights


def _save_mmfs_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor, lse: Tensor | None = None) -> None:
    value, ctx.spatial_shapes, *tensors, ctx.null_logit, null_value, image_shapes = inputs
    ctx.save_for_backward(value, *tensors, null_value, image_shapes, lse)


def _save_mmfs_attention_with_lse(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _save_mmfs_attention(ctx, inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate_mmfs_attention(ctx: Any, grad_out: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    value, *tensors, null_value, image_shapes, lse = ctx.saved_tensors
    offset_table, logit_table = tensors[-2:]
    needs_value = ctx.needs_input_grad[0]
    arguments = (value, ctx.spatial_shapes, *tensors, ctx.null_logit, null_value, image_shapes)
    grad_value, grad_points, grad_offsets, grad_logits, grad_offset_table, grad_logit_table, grad_null_value = (
        torch.ops.mmfs.mmfs_attention_backward(grad_out, *arguments, needs_value, lse)
    )
    return (
        grad_value if needs_value else None,
        None,
        grad_points,
        grad_offsets,
        grad_logits,
        None,
        None if offset_table is None else grad_offset_table,
        None if logit_table is None else grad_logit_table,
        None,
        None if null_value is None else grad_null_value,
        None,
    )


def _refuse(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    raise RuntimeError(NO_DOUBLE_BACKWARD)


for _op, _forward, _fake in (
    ("mmfs::ms_deform_attn", _ms_deform_attn, _ms_deform_attn_fake),
    ("mmfs::ms_deform_attn_backward", _ms_deform_attn_backward, _ms_deform_attn_backward_fake),
    ("mmfs::mmfs_attention", _mmfs_attention, _mmfs_attention_fake),
    ("mmfs::mmfs_attention_with_lse", _mmfs_attention_with_lse, _mmfs_attention_with_lse_fake),
    ("mmfs::mmfs_attention_backward", _mmfs_attention_backward, _mmfs_attention_backward_fake),
):
    torch.library.impl(_op, PORTABLE, _forward)
    torch.library.register_fake(_op, _fake)
torch.library.register_autograd(
    "mmfs::ms_deform_attn", _differentiate_ms_deform_attn, setup_context=_save_ms_deform_attn
)
torch.library.register_autograd(
    "mmfs::mmfs_attention", _differentiate_mmfs_attention, setup_context=_save_mmfs_attention
)
torch.library.register_autograd(
    "mmfs::mmfs_attention_with_lse", _differentiate_mmfs_attention, setup_context=_save_mmfs_attention_with_lse
)
torch.library.register_autograd("mmfs::ms_deform_attn_backward", _refuse)
torch.library.register_autograd("mmfs::mmfs_attention_backward", _refuse)
