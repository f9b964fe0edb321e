"""A network whose pyramid's sizes follow from its image's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfs import MSDeformAttn, mmfs_attention


class Pyramid(nn.Module):
    """Both ops on two levels of images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 16, 1)
        self.attend = MSDeformAttn(16, n_levels=2, n_heads=2, n_points=2)
        self.offsets, self.logits = nn.Linear(16, 2 * 2 * 2), nn.Linear(16, 2 * 2 * 2)
        nn.init.normal_(self.attend.sampling_offsets.weight)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.project(image)
        coarse = nn.functional.avg_pool2d(fine, 2)
        sizes = self.sizes(fine, coarse)
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in (fine, coarse)], dim=1)
        query = coarse.flatten(2).transpose(1, 2)
        batch, num_queries, _ = query.shape
        attended: Tensor = self.attend(query, torch.full((1, 1, 1, 2), 0.4), features, sizes)
        return attended + mmfs_attention(
            features.unflatten(-1, (2, 8)),
            sizes,
            torch.full((1, 1, 2), 0.6),
            self.offsets(query).view(batch, num_queries, 2, 2, 2),
            self.logits(query).view(batch, num_queries, 2, 2, 2),
            torch.tensor([0, 1]).expand(batch, num_queries, 2),
        )

    def sizes(self, *levels: Tensor) -> object:
        return [(level.shape[2], level.shape[3]) for level in levels]
