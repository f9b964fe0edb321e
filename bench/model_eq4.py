"""The feature synchronizer as Eq. 4 of the paper is written, image by image: what our layer multiplies out.

Letters: B sequences, Q queries, M images, C query channels, S pixels of all levels, F feature channels, H heads,
D channels a head, L levels, P points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfs import MMFS


def eq4(layer: MMFS, query: Tensor, reference_point: Tensor, seen: Tensor, features: Tensor) -> Tensor:
    """`layer`'s result from its weights.

    Args:
        layer: with one base for all queries.
        query: [B, Q, C].
        reference_point: [2], (x, y) in [0, 1].
        seen: [B, Q, M] bool, what each query sees, the images of its own row in reading order.
        features: [B, M, S, F].
    """
    batch, num_images = features.shape[:2]
    samples = (layer.num_heads, layer.num_levels, layer.num_points)
    age = seen.flip(-1).cumsum(-1).flip(-1).clamp(1, layer.max_age) - 1  # [B, Q, M]
    positioned = layer.query_proj(query).unsqueeze(2) + layer.age_embedding[age]  # [B, Q, M, C]
    offsets = layer.sampling_offsets(positioned).unflatten(-1, (layer.num_heads, 1, layer.num_points, 2))
    logits = layer.attention_weights(positioned).unflatten(-1, samples)  # [B, Q, M, H, L, P]
    locations = (reference_point + offsets / query.new_tensor(layer.base)).expand(*logits.shape, 2)

    logits = logits.masked_fill(~seen[..., None, None, None], -torch.inf).transpose(2, 3)  # [B, Q, H, M, L, P]
    if layer.null_value is None:
        weights = logits.flatten(3).softmax(-1).nan_to_num()
        out = torch.zeros((), device=query.device)
    else:
        with_null = torch.cat([torch.zeros_like(logits.flatten(3)[..., :1]), logits.flatten(3)], dim=-1).softmax(-1)
        weights = with_null[..., 1:]
        out = with_null[..., :1] * layer.null_value  # [B, Q, H, D]
    weights = weights.view(logits.shape)

    values = layer.project_values(features.flatten(0, 1)).unflatten(0, (batch, num_images))  # [B, M, S, H, D]
    begin = 0
    for level, (height, width) in enumerate(layer.spatial_shapes):
        maps = values[:, :, begin : begin + height * width].permute(0, 1, 3, 4, 2).flatten(0, 2)  # [B*M*H, D, h*w]
        grid = 2 * locations[..., level, :, :].permute(0, 2, 3, 1, 4, 5).flatten(0, 2) - 1  # [B*M*H, Q, P, 2]
        sampled = F.grid_sample(maps.unflatten(-1, (height, width)), grid, align_corners=False)  # [B*M*H, D, Q, P]
        sampled = sampled.unflatten(0, (batch, num_images, layer.num_heads))
        out = out + torch.einsum("bmhdqp,bqhmp->bqhd", sampled, weights[..., level, :])
        begin += height * width
    result: Tensor = layer.output_proj(out.flatten(2))
    return result
