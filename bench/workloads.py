"""The calls that the real models make, by name.

Letters: B batch, Q queries, M images a query may see, N = B*M images of the bank, S pixels of all levels of an image,
H heads, D channels of a head, L levels, P points, A rows of the age tables.

A workload comes at three scales: "full" (the model as trained, for a GPU), "cpu" (one row, the same layout of heads,
channels, levels and points) and "smoke" (a few numbers, to see that the benchmark still runs).

Coordinates are multiples of 2^-13, locations odd ones: then location * size - 0.5 is exact in float32 for every
level size here and never falls on a cell edge, where the gradient jumps. So a difference from float64 is the
arithmetic of the op, not the rounding of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Scale = Literal["full", "cpu", "smoke"]
Locations = Literal["trained", "uniform", "concentrated"]
"""Where samples lie: around their reference points, as models learn it; anywhere; all at one point, within a cell."""
Arguments = dict[str, Any]  # keyword arguments of the public function: tensors, spatial_shapes, numbers

LLM_LEVELS = ((32, 32), (16, 16), (8, 8))  # 224 px, S = 1344
UNET_LEVELS = ((64, 64), (32, 32), (16, 16), (8, 8))  # 512 px, S = 5440
DETR_LEVELS = ((100, 167), (50, 84), (25, 42), (13, 21))  # 800 x 1333 px, S = 22223
SMOKE_LEVELS = ((6, 4), (3, 2))
CELL = 1 / 16  # MMFS predicts offsets in cells of a 16 x 16 grid
TICK = 2.0**-13
CLOSE = 1 / 32  # of the usual distances, where samples are concentrated


class Call(Protocol):
    """What has to be known of a call to compare its results: which arguments have gradients, and an axis of queries."""

    @property
    def num_queries(self) -> int: ...

    @property
    def differentiated(self) -> tuple[str, ...]: ...

    @property
    def per_query(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class MMFSAttentionWorkload:
    """A call of mmfs.mmfs_attention: every row sees its own M images.

    query_grid: the queries are the pixels of a (h, w) latent and see all images (U-Net); None: they are tokens whose
    reference point is the image's centre (LLM). causal: the images are spread evenly through the tokens, and a token
    sees those before it.
    """

    name: str
    batch: int
    num_queries: int
    num_images: int
    spatial_shapes: Sequence[tuple[int, int]]
    query_grid: tuple[int, int] | None = None
    causal: bool = False
    num_heads: int = 16
    num_channels: int = 64
    num_points: int = 8
    num_ages: int = 50

    op = "mmfs_attention"
    differentiated = ("value", "sampling_offsets", "attention_logits", "offset_table", "logit_table")
    per_query = ("reference_points", "sampling_offsets", "attention_logits", "visible")

    def at(self, scale: Scale) -> MMFSAttentionWorkload:
        if scale == "full":
            return self
        if scale == "cpu":
            num_queries = min(self.num_queries, 512) if self.query_grid is None else self.num_queries
            return replace(self, batch=self.batch if num_queries == 1 else 1, num_queries=num_queries)
        return replace(
            self,
            batch=2,
            num_queries=self.num_queries if self.num_queries == 1 else 12,
            query_grid=self.query_grid and (3, 4),
            num_images=min(self.num_images, 3),
            spatial_shapes=SMOKE_LEVELS,
            num_heads=2,
            num_channels=8,
            num_points=2,
            num_ages=3,
        )

    def arguments(self, dtype: torch.dtype, device: str, seed: int = 0, locations: Locations = "trained") -> Arguments:
        with torch.device(device):  # where large inputs are made, too
            return self._made(dtype, torch.Generator(device).manual_seed(seed), locations)

    def _made(self, dtype: torch.dtype, generator: torch.Generator, locations: Locations) -> Arguments:
        rows, queries, heads, points = self.batch, self.num_queries, self.num_heads, self.num_points
        levels, num_pixels = len(self.spatial_shapes), sum(h * w for h, w in self.spatial_shapes)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        if self.query_grid is None:
            reference_points = torch.full((rows, queries, 2), 0.5)
        else:
            reference_points = pixel_centres(*self.query_grid).expand(rows, -1, -1)
        seen = torch.full((queries,), self.num_images)
        if self.causal:
            seen = 1 + torch.arange(queries) * self.num_images // queries  # [Q] images that begin before the token
        first = (torch.arange(rows) * self.num_images)[:, None].expand(-1, queries)  # [B, Q]
        table_cells = 1 if locations == "trained" else CLOSE
        arguments = {
            "value": normal(rows * self.num_images, num_pixels, heads, self.num_channels).to(dtype),
            "reference_points": even_ticks(reference_points),
            "sampling_offsets": odd_ticks(
                moved(
                    normal(rows, queries, heads, points, 2) * 3 * CELL,
                    reference_points[:, :, None, None],
                    locations,
                    generator,
                )
            ),
            "attention_logits": normal(rows, queries, heads, levels, points).to(dtype),
            "visible": torch.stack([first, first + seen], dim=-1),
            "offset_table": even_ticks(normal(self.num_ages, heads, points, 2) * table_cells * CELL),
            "logit_table": normal(self.num_ages, heads, levels, points),
        }
        return arguments | {
            "spatial_shapes": self.spatial_shapes,
            "null_logit": 0.0,
        }

    def num_samples(self, arguments: Arguments) -> int:
        """Bilinear samples per channel that the call takes."""
        num_seen = int(arguments["visible"].diff(dim=-1).sum())
        return num_seen * self.num_heads * len(self.spatial_shapes) * self.num_points


@dataclass(frozen=True)
class MSDeformAttnWorkload:
    """A call of mmfs.ms_deform_attn.

    encoder: the queries are the pixels of all levels, sampling around themselves; else reference points lie anywhere.
    """

    name: str
    batch: int
    num_queries: int
    spatial_shapes: Sequence[tuple[int, int]]
    encoder: bool = False
    num_heads: int = 8
    num_channels: int = 32
    num_points: int = 4

    op = "ms_deform_attn"
    differentiated = ("value", "sampling_locations", "attention_weights")
    per_query = ("sampling_locations", "attention_weights")

    def at(self, scale: Scale) -> MSDeformAttnWorkload:
        if scale == "full":
            return self
        if scale == "cpu":
            return replace(self, batch=1)
        num_queries = sum(h * w for h, w in SMOKE_LEVELS) if self.encoder else 7
        return replace(
            self,
            batch=2,
            num_queries=num_queries,
            spatial_shapes=SMOKE_LEVELS,
            num_heads=2,
            num_channels=8,
            num_points=2,
        )

    def arguments(self, dtype: torch.dtype, device: str, seed: int = 0, locations: Locations = "trained") -> Arguments:
        with torch.device(device):  # where large inputs are made, too
            return self._made(dtype, torch.Generator(device).manual_seed(seed), locations)

    def _made(self, dtype: torch.dtype, generator: torch.Generator, locations: Locations) -> Arguments:
        shape = (self.batch, self.num_queries, self.num_heads, len(self.spatial_shapes), self.num_points)
        num_pixels = sum(h * w for h, w in self.spatial_shapes)
        if self.encoder:
            points = torch.cat([pixel_centres(h, w) for h, w in self.spatial_shapes]).expand(self.batch, -1, -1)
        else:
            points = torch.rand(self.batch, self.num_queries, 2, generator=generator)
        wh = torch.tensor(self.spatial_shapes).flip(-1)[:, None]  # [L, 1, 2]: offsets are (x, y)
        points = points[:, :, None, None, None]  # [B, Q, H, L, P, 2]
        offsets = moved(3 * torch.randn(*shape, 2, generator=generator) / wh, points, locations, generator)
        value = torch.randn(self.batch, num_pixels, self.num_heads, self.num_channels, generator=generator)
        logits = torch.randn(shape, generator=generator)
        return {
            "value": value.to(dtype),
            "spatial_shapes": self.spatial_shapes,
            "sampling_locations": odd_ticks(points + offsets),
            "attention_weights": logits.flatten(3).softmax(-1).view(shape).to(dtype),
        }

    def num_samples(self, arguments: Arguments) -> int:
        """Bilinear samples per channel that the call takes."""
        return int(arguments["attention_weights"].numel())


def pixel_centres(height: int, width: int) -> Tensor:
    """[h*w, 2] (x, y), row by row."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def moved(offsets: Tensor, points: Tensor, locations: Locations, generator: torch.Generator) -> Tensor:
    """Offsets from points to locations of that distribution, made of trained ones where it is one around a point."""
    if locations == "trained":
        return offsets
    if locations == "concentrated":
        return 0.5 - points + offsets * CLOSE
    return torch.rand(offsets.shape, generator=generator) - points


def even_ticks(coordinates: Tensor) -> Tensor:
    return (coordinates / (2 * TICK)).round() * (2 * TICK)


def odd_ticks(coordinates: Tensor) -> Tensor:
    return even_ticks(coordinates) + TICK


Workload = MMFSAttentionWorkload | MSDeformAttnWorkload

LLM: list[Workload] = [
    *(
        MMFSAttentionWorkload(f"llm-prefill-{m}-images", 4, 2048, num_images=m, spatial_shapes=LLM_LEVELS, causal=True)
        for m in (1, 3, 6, 10)
    ),
    *(MMFSAttentionWorkload(f"llm-decode-batch-{b}", b, 1, num_images=6, spatial_shapes=LLM_LEVELS) for b in (1, 8)),
]
UNET: list[Workload] = [
    MMFSAttentionWorkload(f"unet-{g}-images-{m}", 8, g * g, num_images=m, spatial_shapes=UNET_LEVELS, query_grid=(g, g))
    for g in (8, 16, 32, 64)
    for m in (1, 4)
]
DETR: list[Workload] = [
    MSDeformAttnWorkload("detr-decoder", 4, 300, spatial_shapes=DETR_LEVELS),
    MSDeformAttnWorkload("detr-encoder", 2, 22223, spatial_shapes=DETR_LEVELS, encoder=True),
]
WORKLOADS = {workload.name: workload for workload in LLM + UNET + DETR}
