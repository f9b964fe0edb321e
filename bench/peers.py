"""Both ops by means of transformers' own multi-scale deformable attention: what a user would do without mmfs.

Letters as in bench/workloads.py. transformers' function knows no image axis. The M images that a row may see become
M*L levels, and locations, mask and softmax are made in PyTorch: that work is part of the op, so it is timed with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Arguments and result as mmfs.ms_deform_attn."""
    shapes = torch.tensor(spatial_shapes, device=value.device)
    sizes = shapes.prod(-1)
    return MultiScaleDeformableAttention()(
        value,
        shapes,
        list(spatial_shapes),
        sizes.cumsum(0) - sizes,
        sampling_locations.to(value.dtype),  # its grid_sample wants one dtype
        attention_weights,
        im2col_step=64,
    )


def mmfs_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    *,
    offset_table: Tensor,
    logit_table: Tensor,
    null_logit: float,
) -> Tensor:
    """Arguments and result as mmfs.mmfs_attention, for banks in which row b sees only its own M = N / B images."""
    batch, queries, heads, levels, points = attention_logits.shape
    num_images = value.shape[0] // batch
    first_of_row = (torch.arange(batch, device=value.device) * num_images)[:, None, None]
    image = first_of_row + torch.arange(num_images, device=value.device)  # [B, 1, M]
    seen = (image >= visible[..., :1]) & (image < visible[..., 1:])  # [B, Q, M]
    row_of_table = (visible[..., 1:] - image - 1).clamp(0, offset_table.shape[0] - 1)  # [B, Q, M], age - 1

    offsets = sampling_offsets[:, :, None] + offset_table[row_of_table]  # [B, Q, M, H, P, 2]
    locations = (reference_points[:, :, None, None, None] + offsets).transpose(2, 3)  # [B, Q, H, M, P, 2]
    locations = locations[:, :, :, :, None].expand(-1, -1, -1, -1, levels, -1, -1)
    logits = attention_logits[:, :, None] + logit_table[row_of_table]  # [B, Q, M, H, L, P]
    logits = logits.masked_fill(~seen[..., None, None, None], -torch.inf).transpose(2, 3).flatten(3)
    null = logits.new_full((batch, queries, heads, 1), null_logit)
    weights = torch.cat([logits, null], dim=-1).softmax(-1)[..., :-1]  # [B, Q, H, M*L*P]
    return ms_deform_attn(
        value.unflatten(0, (batch, num_images)).flatten(1, 2),
        list(spatial_shapes) * num_images,
        locations.flatten(3, 4),
        weights.view(batch, queries, heads, num_images * levels, points).to(value.dtype),
    )
