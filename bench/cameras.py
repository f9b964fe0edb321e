"""A bird's-eye view of cameras: BEVFormer's spatial cross-attention (Li et al., 2022) between its projections.

Each query is a cell of the ground, which two of six cameras see. In each of them its centre lies at several heights;
point p of the P that a head samples on a level is placed around height p modulo their number. The softmax is over the
levels and points of one camera, and the result is the mean of the cameras that see the cell.

`mmfs.mmfs_attention` says this with image_indices: the logits are the same for all cameras, so a softmax over all of
them is that mean. The peers are the two ways in which models say it with deformable attention of one image, written
here after the paper and mmcv's arithmetic: "dense" lets every camera compute every query and drops what it does not
see; "rebatched" gathers the queries of each camera, pads them to the longest list, and scatters the results back, as
BEVFormer does.

Letters: B batch, Q queries, N cameras, S pixels of all levels of a camera, H heads, D channels of a head, L levels,
P points.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

import mmfs
from bench.workloads import Arguments, Locations, Scale, even_ticks, odd_ticks

NUM_CAMERAS: Final = 6
HEIGHTS: Final = (-1.0, 0.0, 1.0, 2.0)
"""Of a pillar above a cell, in metres from the cameras."""

BEVFORMER_LEVELS: Final = ((116, 200), (58, 100), (29, 50), (15, 25))  # 928 x 1600 px, S = 30825

Op = Callable[..., Tensor]


@dataclass(frozen=True)
class CamerasWorkload:
    """A call of mmfs.mmfs_attention with image_indices; slot c of a list is camera c, or none.

    side: cells of the map, in a row and in a column.
    """

    name: str
    side: int
    spatial_shapes: Sequence[tuple[int, int]]
    num_heads: int = 8
    num_channels: int = 32
    num_points: int = 8

    op = "mmfs_attention"
    differentiated = ("value", "reference_points", "sampling_offsets", "attention_logits")
    per_query = ("reference_points", "sampling_offsets", "attention_logits", "image_indices")

    @property
    def num_queries(self) -> int:
        return self.side**2

    def at(self, scale: Scale) -> CamerasWorkload:
        if scale == "full":
            return self
        if scale == "cpu":
            return replace(self, side=50)
        return replace(
            self, side=5, spatial_shapes=((6, 4), (3, 2)), num_heads=2, num_channels=8, num_points=len(HEIGHTS)
        )

    def arguments(self, dtype: torch.dtype, device: str, seed: int = 0, locations: Locations = "trained") -> Arguments:
        """locations: "trained" alone, around the projected points."""
        with torch.device(device):
            generator = torch.Generator(device).manual_seed(seed)
            lists, points = project(self.side)
            samples = (1, self.num_queries, self.num_heads, len(self.spatial_shapes), self.num_points)
            wh = torch.tensor(self.spatial_shapes).flip(-1)[:, None]  # [L, 1, 2]: offsets are (x, y) in pixels
            offsets = 3 * torch.randn(*samples, 2, generator=generator) / wh
            num_pixels = sum(h * w for h, w in self.spatial_shapes)
            bank = (NUM_CAMERAS, num_pixels, self.num_heads, self.num_channels)
            points = points.repeat(1, 1, self.num_points // len(HEIGHTS), 1)  # [Q, N, P, 2]
            return {
                "value": torch.randn(bank, generator=generator).to(dtype),
                "spatial_shapes": self.spatial_shapes,
                "reference_points": even_ticks(points)[None, :, :, None],
                "sampling_offsets": odd_ticks(offsets),
                "attention_logits": torch.randn(samples, generator=generator).to(dtype),
                "image_indices": lists[None],
                "null_logit": None,
            }

    def num_samples(self, arguments: Arguments) -> int:
        """Bilinear samples per channel that the call takes."""
        num_seen = int((arguments["image_indices"] >= 0).sum())
        return num_seen * self.num_heads * len(self.spatial_shapes) * self.num_points


def project(side: int) -> tuple[Tensor, Tensor]:
    """What the cells of a square map see from its middle, through cameras 60 degrees apart that are 120 degrees wide.

    Returns:
        lists: int [Q, N], camera c in slot c, -1 where it does not see the cell: two of six do.
        points: [Q, N, heights, 2], (x, y) of the cell in each image; also outside of it, where it is not seen.
    """
    line = (torch.arange(side) + 0.5) / side * 100 - 50  # metres
    front, left = torch.cartesian_prod(line, line).unbind(-1)  # [Q]
    turn = torch.arange(NUM_CAMERAS) * (2 * math.pi / NUM_CAMERAS)
    # A little turned, so that no cell lies on a border of two cameras.
    angle = torch.atan2(left, front)[:, None] - turn + 0.01
    angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi  # [Q, N], from the axis of the camera
    lists = torch.where(angle.abs() < math.pi / 3, torch.arange(NUM_CAMERAS), -1)
    x = 0.5 - angle / (2 * math.pi / 3)
    y = 0.5 - torch.tensor(HEIGHTS) / torch.hypot(front, left).clamp(min=1.0)[:, None]
    points = torch.stack(torch.broadcast_tensors(x[:, :, None], y[:, None]), dim=-1)
    return lists, points


# ---------------------------------------------------------------------------------------------------------------------
# Peers: arguments and result as mmfs.mmfs_attention, for the calls above, of one row of the batch


def by_grid_sample(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """mmfs.ms_deform_attn as mmcv computes it where its CUDA kernel is not: grid_sample by level, then a product."""
    batch, _, num_heads, dim = value.shape
    num_queries = sampling_locations.shape[1]
    grids = 2 * sampling_locations.to(value.dtype) - 1
    sampled = []
    for level, (plane, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in spatial_shapes], dim=1), spatial_shapes, strict=True)
    ):
        images = plane.flatten(2).transpose(1, 2).reshape(batch * num_heads, dim, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B*H, Q, P, 2]
        sampled.append(F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = attention_weights.transpose(1, 2).reshape(batch * num_heads, 1, num_queries, -1)  # [B*H, 1, Q, L*P]
    out = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)  # [B*H, D, Q]
    return out.view(batch, num_heads * dim, num_queries).transpose(1, 2)


def of_one_camera(attention_logits: Tensor) -> Tensor:
    """The softmax over the levels and points of one camera, [B, Q, H, L, P]."""
    return attention_logits.flatten(3).softmax(-1).view_as(attention_logits)


def dense(
    plain_op: Op,
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    image_indices: Tensor,
    null_logit: None = None,
) -> Tensor:
    """Every camera computes every query: [N, Q] calls, of which the mean over the seeing cameras is taken."""
    weights = of_one_camera(attention_logits).to(value.dtype)
    points = reference_points[0].transpose(0, 1)[:, :, None]  # [N, Q, 1, 1, P, 2]
    out = plain_op(
        value,
        spatial_shapes,
        points + sampling_offsets,  # [N, Q, H, L, P, 2]
        weights.expand(len(value), -1, -1, -1, -1),
    )  # [N, Q, H*D]
    sees = (image_indices[0].T >= 0)[..., None]  # [N, Q, 1]
    return (torch.where(sees, out, 0.0).sum(0) / sees.sum(0).clamp(min=1))[None]


def rebatched(
    plain_op: Op,
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    image_indices: Tensor,
    null_logit: None = None,
) -> Tensor:
    """The queries of each camera alone, padded to the longest list of a camera, and scattered back."""
    sees = image_indices[0].T >= 0  # [N, Q]
    of_camera = [each.nonzero()[:, 0] for each in sees]
    longest = max(len(each) for each in of_camera)
    queries = torch.stack([F.pad(each, (0, longest - len(each))) for each in of_camera])  # [N, longest]
    weights = of_one_camera(attention_logits).to(value.dtype)
    cameras = torch.arange(len(value), device=value.device)[:, None]
    points = reference_points[0][queries, cameras][:, :, None]  # [N, longest, 1, 1, P, 2]
    out = plain_op(value, spatial_shapes, points + sampling_offsets[0][queries], weights[0][queries])
    total = out.new_zeros(sees.shape[1], out.shape[-1])
    for each, found in zip(of_camera, out, strict=True):
        total = total.index_add(0, each, found[: len(each)])
    return (total / sees.sum(0)[:, None].clamp(min=1))[None]


PEERS: Final[dict[str, Op]] = {
    "dense": functools.partial(dense, by_grid_sample),
    "rebatched": functools.partial(rebatched, by_grid_sample),
    "rebatched-mmfs": functools.partial(rebatched, mmfs.ms_deform_attn),
}
"""The last one is rebatching around mmfs's own kernel of one image: what lists of images save beyond a fast kernel."""

WORKLOADS: Final = {
    workload.name: workload for workload in (CamerasWorkload("bevformer-2-of-6-cameras", 200, BEVFORMER_LEVELS),)
}
