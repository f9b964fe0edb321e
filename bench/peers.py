"""Both ops by means of what a user would take without mmfs.

Letters as in bench/workloads.py. The peers know no image axis. The M images that a row may see become M*L levels, and
locations, mask and softmax are made in PyTorch: that work is part of the op, so it is timed with it. Attention over all
pixels (SDPA) is another function with the same purpose.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

Op = Callable[..., Tensor]

PEERS: Final = ("transformers", "transformers-compiled", "sdpa", "deformops", "deformops-float32")
"""deformops adds gradients in the type of the values where the GPU can (its default), or in float32."""


def why_not(peer: str, op: str, device: str) -> str | None:
    """Why this peer does not compute this op here; None if it does."""
    if peer == "sdpa" and op == "ms_deform_attn":
        return "SDPA stands beside mmfs_attention: attention over all pixels of its images"
    if peer in ("transformers-compiled", "deformops", "deformops-float32") and device != "cuda":
        return f"{peer} is compared on a GPU only"
    if peer.startswith("deformops") and find_spec("deformops") is None:
        return "deformops is not installed: pip install --no-deps deformops==3.0.1 (Python 3.12 or 3.13)"
    return None


def peer_op(peer: str, op: str) -> Op:
    """The function; arguments and result as mmfs.<op>. `why_not` has been asked."""
    if peer == "sdpa":
        return attention_over_all_pixels
    if peer.startswith("deformops"):
        plain_op: Op = functools.partial(by_deformops, in_float32=peer == "deformops-float32")
    else:
        plain_op = by_transformers
    function = plain_op if op == "ms_deform_attn" else functools.partial(with_images_as_levels, plain_op)
    if peer == "transformers-compiled":
        compiled: Op = torch.compile(function)
        return compiled
    return function


@functools.cache
def level_tensors(spatial_shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes [L, 2] and first pixels [L] of the levels, as a model keeps them: made in each call, they would wait."""
    shapes = torch.tensor(spatial_shapes, device=device)
    sizes = shapes.prod(-1)
    return shapes, sizes.cumsum(0) - sizes


def by_transformers(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """ms_deform_attn by transformers' own function. Arguments and result as mmfs.ms_deform_attn."""
    return MultiScaleDeformableAttention()(
        value,
        *_shapes_and_starts(spatial_shapes, value),
        sampling_locations.to(value.dtype),  # its grid_sample wants one dtype
        attention_weights,
        im2col_step=64,
    )


def _shapes_and_starts(
    spatial_shapes: Sequence[tuple[int, int]], value: Tensor
) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
    shapes, starts = level_tensors(tuple(spatial_shapes), value.device)
    return shapes, list(spatial_shapes), starts


def by_deformops(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    in_float32: bool,
) -> Tensor:
    """ms_deform_attn by deformops. Arguments and result as mmfs.ms_deform_attn."""
    registry = importlib.import_module("deformops.registry")
    shapes, starts = level_tensors(tuple(spatial_shapes), value.device)
    options = {"backend": registry.Backend.TRITON, "fp32acc": True} if in_float32 else {}
    out: Tensor = registry.msda(value, shapes, starts, sampling_locations, attention_weights, **options)
    return out


def with_images_as_levels(
    plain_op: Op,
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
    return plain_op(
        value.unflatten(0, (batch, num_images)).flatten(1, 2),
        list(spatial_shapes) * num_images,
        locations.flatten(3, 4),
        weights.view(batch, queries, heads, num_images * levels, points).to(value.dtype),
    )


def attention_over_all_pixels(value: Tensor, *, attention_logits: Tensor, **others: object) -> Tensor:
    """Scaled dot-product attention of every query to all pixels of its row's images, seen or not: [B, Q, H*D].

    Pixels are keys and values; the logits, filled up with zeros or cut to D, are the queries: any would do.
    A mask would keep PyTorch from its fastest kernel, so images that begin after a token are not hidden from it.
    """
    batch, dim = attention_logits.shape[0], value.shape[-1]
    query = attention_logits.flatten(3)
    query = F.pad(query, (0, dim - query.shape[-1])).to(value.dtype).transpose(1, 2)  # [B, H, Q, D]
    pixels = value.unflatten(0, (batch, -1)).flatten(1, 2).transpose(1, 2)  # [B, H, M*S, D]
    return F.scaled_dot_product_attention(query, pixels, pixels).transpose(1, 2).flatten(2)
