"""Where queries of `mmfs.mmfs_attention` sample, and with how much attention: its arguments, spelled out.

Letters: B batch, Q queries, M the most images that one query sees, H heads, L levels, P points.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments
from mmfs.functional import with_lists
from mmfs.reference import accumulation_dtype, attention_by_age, count_visible, locations_at_age


class Sampled(NamedTuple):
    """What queries sample of every image that they see: the oldest first, or in the order of their lists.

    The weighted samples of all images, plus `null_weights` times the null value, are what `mmfs.mmfs_attention`
    returns. Of row b, whose queries see the same images:

        sum(mmfs.ms_deform_attn(value[images[b, 0, m], None], sizes, sampling_locations[b, None, :, m],
                                attention_weights[b, None, :, m]) for m in range(M))
    """

    sampling_locations: Tensor
    """[B, Q, M, H, L, P, 2], (x, y) in units of the image: 0 and 1 are its edges, outside samples zero."""

    attention_weights: Tensor
    """[B, Q, M, H, L, P]; 0 for an image that a query does not see."""

    null_weights: Tensor
    """[B, Q, H], the share of the attention that goes to no image: with `attention_weights` it sums to 1."""

    images: Tensor
    """int64 [B, Q, M], the number of each image in the bank; -1 where a query sees fewer than M, behind those that it
    sees or where its list says so."""


def sampled(arguments: MMFSAttentionArguments, *, newest_last: bool = True) -> Sampled:
    """Spell out where a call samples. The arguments `value`, sizes and `null_value` are not read and may be empty.

    Args:
        arguments: of a call, which has checked them.
        newest_last: False for a bank in reversed order, where the image of age 1 is the oldest. A call with
            image_indices has its own order.

    Returns:
        All of it in float32, or float64 if the logits are.
    """
    dtype = accumulation_dtype(arguments.attention_logits.dtype)
    if arguments.image_indices is not None:
        return _sampled_of_lists(with_lists(arguments), arguments.image_indices.long(), dtype)
    points = arguments.reference_points.expand(*arguments.sampling_offsets.shape[:2], 2)
    arguments, visible = arguments._replace(reference_points=points), arguments.ranges.long()
    num_visible = count_visible(visible, int(visible.max()) if visible.numel() else 0)[..., None]  # [B, Q, 1]
    most = int(num_visible.max()) if num_visible.numel() else 0
    place = torch.arange(most, device=visible.device)  # of an image among those that a query sees
    exists = place < num_visible  # [B, Q, M]
    weights, null_weights = attention_by_age(arguments, exists, dtype)  # [B, Q, H, M, L, P]
    batch, num_queries, num_heads, num_images, num_levels, num_points = weights.shape
    locations = weights.new_empty(batch, num_queries, num_images, num_heads, num_points, 2)
    for m in range(num_images):
        locations[:, :, m] = locations_at_age(arguments, m + 1, dtype).squeeze(3)

    age = torch.where(exists, num_visible - place if newest_last else place + 1, 1)
    row = torch.arange(batch, device=visible.device)[:, None, None]
    column = torch.arange(num_queries, device=visible.device)[:, None]
    weights = torch.where(exists[..., None, None, None], weights.transpose(2, 3)[row, column, age - 1], 0.0)
    locations = locations[row, column, age - 1].unsqueeze(4).expand(-1, -1, -1, -1, num_levels, -1, -1)
    return Sampled(locations, weights, null_weights, torch.where(exists, visible[..., 1:] - age, -1))


def _sampled_of_lists(arguments: MMFSAttentionArguments, images: Tensor, dtype: torch.dtype) -> Sampled:
    """images: int64 [B, Q, K], of which each slot has its own points and its own row of the tables."""
    weights, null_weights = attention_by_age(arguments, images >= 0, dtype)  # [B, Q, H, K, L, P]
    weights = weights.transpose(2, 3)
    locations = weights.new_empty(*weights.shape, 2)
    for slot in range(images.shape[2]):
        locations[:, :, slot] = locations_at_age(arguments, slot + 1, dtype)
    return Sampled(locations, weights, null_weights, images)
