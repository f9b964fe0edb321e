"""Inputs of the two ops, and two independent statements of what the ops are.

Letters: B batch, Q queries, N images, S pixels, H heads, D channels of a head, L levels, P points, A ages, K slots of a
list of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments, MSDeformAttnArguments

Sizes = Sequence[tuple[int, int]]
NOT_SQUARE: Sizes = ((4, 7), (3, 2))


@dataclass
class Case:
    """Arguments of an op by name: floating tensors, which have gradients, and the rest."""

    tensors: dict[str, Tensor]
    rest: dict[str, Any]

    def run(self, op: Callable[..., Tensor], dtype: torch.dtype = torch.float64, **more: Any) -> dict[str, Tensor]:
        """Output and, by name, the gradients of a fixed, uneven weighting of it."""
        leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in self.tensors.items()}
        out = op(**leaves, **self.rest, **more)
        weighting = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
        gradients = torch.autograd.grad(out, list(leaves.values()), weighting, allow_unused=True)
        named = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
        return {"output": out.detach(), **named}


def ms_deform_attn_case(
    sizes: Sizes = NOT_SQUARE,
    *,
    batch: int = 2,
    num_queries: int = 5,
    num_heads: int = 2,
    dim: int = 3,
    num_points: int = 3,
    low: float = -0.3,
    high: float = 1.3,
) -> Case:
    """Locations are uniform in [low, high): by default some lie outside."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, num_queries, num_heads, len(sizes), num_points)
    num_pixels = sum(h * w for h, w in sizes)
    return Case(
        {
            "value": torch.randn(batch, num_pixels, num_heads, dim, generator=generator, dtype=torch.float64),
            "sampling_locations": torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * (high - low) + low,
            "attention_weights": torch.rand(shape, generator=generator, dtype=torch.float64),
        },
        {"spatial_shapes": sizes},
    )


def mmfs_attention_case(
    sizes: Sizes = NOT_SQUARE,
    *,
    batch: int = 2,
    num_queries: int = 5,
    num_images: int = 6,
    num_heads: int = 2,
    dim: int = 3,
    num_points: int = 3,
    num_ages: int = 4,
    spread: float = 0.3,
    tables: bool = True,
    null_value: bool = True,
    null_logit: float | None = 0.3,
) -> Case:
    """Queries see 0, 1, ... num_images, 0, 1, ... images: none, and more than num_ages, are among them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    num_pixels = sum(h * w for h, w in sizes)
    tensors = {
        "value": normal(num_images, num_pixels, num_heads, dim),
        "reference_points": torch.rand(batch, num_queries, 2, generator=generator, dtype=torch.float64),
        "sampling_offsets": normal(batch, num_queries, num_heads, num_points, 2, scale=spread),
        "attention_logits": normal(batch, num_queries, num_heads, len(sizes), num_points),
    }
    if tables:
        tensors["offset_table"] = normal(num_ages, num_heads, num_points, 2, scale=spread)
        tensors["logit_table"] = normal(num_ages, num_heads, len(sizes), num_points)
    if null_value:
        tensors["null_value"] = normal(num_heads, dim)
    count = torch.arange(batch * num_queries).view(batch, num_queries) % (num_images + 1)
    first = (torch.rand(count.shape, generator=generator) * (num_images - count + 1)).long()
    visible = torch.stack([first, first + count], dim=-1)
    return Case(tensors, {"spatial_shapes": sizes, "visible": visible, "null_logit": null_logit})


def image_lists_case(
    sizes: Sizes = NOT_SQUARE,
    *,
    num_slots: int = 4,
    points_by_level: bool = False,
    points_by_sample: bool = False,
    offsets_by_level: bool = False,
    spread: float = 0.3,
    **options: Any,
) -> Case:
    """Queries with lists of images: some empty, some with an image twice, some with -1 between images.

    Points, offsets and table have all axes, as the implementations take them.
    """
    case = mmfs_attention_case(sizes, spread=spread, **options)
    generator = torch.Generator().manual_seed(1)
    batch, num_queries, _, num_levels, num_points = case.tensors["attention_logits"].shape
    num_images = len(case.tensors["value"])

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    levels, samples = num_levels if points_by_level else 1, num_points if points_by_sample else 1
    case.tensors["reference_points"] = random(batch, num_queries, num_slots, levels, samples, 2)
    factors = random(num_levels, 1, 1) + 0.5 if offsets_by_level else torch.ones(1, 1, 1, dtype=torch.float64)
    for name in ("sampling_offsets", "offset_table"):
        if name in case.tensors:
            case.tensors[name] = case.tensors[name].unsqueeze(-3) * factors
    lists = torch.randint(-1, num_images, (batch, num_queries, num_slots), generator=generator)
    if lists.numel():
        count = torch.arange(batch * num_queries).view(batch, num_queries, 1) % (num_slots + 1)
        lists = lists.masked_fill(torch.arange(num_slots) >= count, -1)  # of 0, 1, ... slots
        lists[0, -1, 1:2] = -1
        lists[-1, -1] = num_images - 1  # the same image in all slots
    del case.rest["visible"]
    case.rest["image_indices"] = lists
    return case


def arguments_of(spatial_shapes: Sizes | Sequence[int] | Tensor, **named: Any) -> Any:
    """The structure that the implementations take: of ms_deform_attn if there are sampling_locations.

    spatial_shapes: pairs (h, w), the same as a flat list, or a tensor [N, L, 2].
    """
    if isinstance(spatial_shapes, Tensor):
        return MMFSAttentionArguments(spatial_shapes=[], image_shapes=spatial_shapes, **named)
    flat = [side for size in spatial_shapes for side in ([size] if isinstance(size, int) else size)]
    structure = MSDeformAttnArguments if "sampling_locations" in named else MMFSAttentionArguments
    return structure(spatial_shapes=flat, **named)


def ms_deform_attn_by_grid_sample(
    value: Tensor, spatial_shapes: Sizes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """ms_deform_attn with PyTorch's own bilinear sampling."""
    batch, _, num_heads, dim = value.shape
    num_queries, num_points = sampling_locations.shape[1], sampling_locations.shape[4]
    out = value.new_zeros(batch, num_queries, num_heads, dim)
    for level, ((h, w), plane) in enumerate(
        zip(spatial_shapes, value.split([h * w for h, w in spatial_shapes], dim=1), strict=True)
    ):
        image = plane.permute(0, 2, 3, 1).reshape(batch * num_heads, dim, h, w)
        grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # [B*H, Q, P, 2]
        samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        samples = samples.view(batch, num_heads, dim, num_queries, num_points)
        out = out + torch.einsum("bhdqp,bqhp->bqhd", samples, attention_weights[:, :, :, level])
    return out.flatten(2)


def mmfs_attention_one_by_one(
    value: Tensor,
    spatial_shapes: Sizes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor | None = None,
    *,
    image_indices: Tensor | None = None,
    offset_table: Tensor | None = None,
    logit_table: Tensor | None = None,
    null_logit: float | None = 0.0,
    null_value: Tensor | None = None,
) -> Tensor:
    """mmfs_attention query by query, head by head, image by image."""
    batch, num_queries, num_heads = attention_logits.shape[:3]
    dim = value.shape[-1]
    results = []
    for b in range(batch):
        for q in range(num_queries):
            if image_indices is None:
                assert visible is not None
                first, last = visible[b, q].tolist()
                entries = [(m, last - m, reference_points[b, q]) for m in range(first, last)]
            else:
                listed = enumerate(image_indices[b, q].tolist())
                entries = [(m, slot + 1, reference_points[b, q, slot]) for slot, m in listed if m != -1]
            for head in range(num_heads):
                logits, samples = [], []
                for m, age, point in entries:
                    offset = sampling_offsets[b, q, head]  # [P, 2], or [L, P, 2]
                    logit = attention_logits[b, q, head]  # [L, P]
                    if offset_table is not None:
                        offset = offset + offset_table[min(age, len(offset_table)) - 1, head]
                    if logit_table is not None:
                        logit = logit + logit_table[min(age, len(logit_table)) - 1, head]
                    places = (point + offset).expand(*attention_logits.shape[3:], 2)  # [L, P, 2]
                    start = 0
                    for level, (h, w) in enumerate(spatial_shapes):
                        plane = value[m, start : start + h * w, head].view(h, w, dim).permute(2, 0, 1)[None]
                        grid = 2 * places[level][None, None] - 1  # [1, 1, P, 2]
                        samples.append(F.grid_sample(plane, grid, align_corners=False)[0, :, 0].T)  # [P, D]
                        logits.append(logit[level])
                        start += h * w
                if null_logit is not None or not logits:
                    logits.append(value.new_tensor([0.0 if null_logit is None else null_logit]))
                    samples.append(value.new_zeros(1, dim) if null_value is None else null_value[head][None])
                results.append(torch.cat(logits).softmax(0) @ torch.cat(samples))
    return torch.stack(results).view(batch, num_queries, num_heads * dim)


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    assert one.keys() == other.keys()
    return {name: _difference(one[name], other[name]) for name in one}


def _difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    worst = (one - other).abs().max().item() if one.numel() else 0.0
    return math.inf if math.isnan(worst) else worst


def strided(tensor: Tensor) -> Tensor:
    """The same elements with the axes in reverse order in memory, with gaps."""
    if not tensor.ndim:
        return tensor
    axes = list(range(tensor.ndim))[::-1]
    return tensor.permute(axes).repeat_interleave(2, dim=0).permute(axes)[..., ::2]
