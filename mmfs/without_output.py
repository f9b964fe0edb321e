"""Calls whose output has no elements: they are checked, and no kernel is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
)
from mmfs.reference import accumulation_dtype, image_planes, seen_images


def check_numbers(arguments: MMFSAttentionArguments) -> None:
    """Raises ValueError for images beyond the bank and sizes that do not fit, as the call would if it had output."""
    num_images = arguments.value.shape[0]
    if arguments.image_shapes is not None:
        num_images = image_planes(arguments.value, arguments.image_shapes).shape[0]
    seen_images(arguments, num_images)


def zero_ms_deform_attn_gradients(arguments: MSDeformAttnArguments, needs_value: bool) -> MSDeformAttnGradients:
    """Gradients of a call without output; of value only if needs_value."""
    return MSDeformAttnGradients(
        zeros_like(arguments.value) if needs_value else arguments.value.new_empty(0),
        zeros_like(arguments.sampling_locations),
        zeros_like(arguments.attention_weights),
    )


def zero_mmfs_attention_gradients(arguments: MMFSAttentionArguments, needs_value: bool) -> MMFSAttentionGradients:
    """Gradients of a call without output; of value only if needs_value."""
    value = arguments.value
    none = value.new_empty(0, dtype=accumulation_dtype(value.dtype))
    others = (getattr(arguments, name) for name in MMFSAttentionGradients._fields[1:])
    return MMFSAttentionGradients(
        zeros_like(value) if needs_value else value.new_empty(0),
        *(none.clone() if part is None else zeros_like(part) for part in others),
    )


def zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
