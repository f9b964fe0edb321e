"""A training step with the choices of the released code: what ours is compared with.

Letters: B sequences, Q queries, M images that a sequence sees, N images of the bank, C query channels, S pixels of all
levels, H heads, D channels a head, L levels, P points.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

import mmfs
from mmfs import MMFS
from models import Batch, MMInterleaved
from models.sequence import gather_context, image_visible
from models.synchronizer import Synchronizer


class RepeatedMMFS(nn.Module):
    """MMFS as Eq. 4 is written: each query is repeated for each image, goes through all three projections there, and
    samples a padded copy of the values. The sampling itself is our kernel's."""

    def __init__(self, layer: MMFS) -> None:
        super().__init__()
        self.layer = layer
        self.query_dim, self.feature_dim = layer.query_dim, layer.feature_dim

    def project_values(self, features: Tensor) -> Tensor:
        """[N, S, F] -> [N, S, H, D]."""
        return self.layer.project_values(features)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        visible: Tensor,
        *,
        values: Tensor,
        base: tuple[int, int] | None = None,
        record: None = None,
    ) -> Tensor:
        """Arguments and result of `MMFS.forward`, of which it records nothing; [B, Q, C] -> [B, Q, C]."""
        layer = self.layer
        first, last = visible.unbind(-1)  # [B, Q]
        sees = last > first
        begin = torch.where(sees, first, len(values)).amin(1)  # [B], of the images that the sequence sees
        num_images = max(1, int((torch.where(sees, last, 0).amax(1) - begin).max()))
        image = begin[:, None] + torch.arange(num_images, device=query.device)  # [B, M]
        seen = (image[:, None] >= first[..., None]) & (image[:, None] < last[..., None])  # [B, Q, M]
        age = (last[..., None] - image[:, None]).clamp(1, layer.max_age) - 1
        copied = (
            values[image.clamp(0, len(values) - 1)]
            if len(values)
            else values.new_zeros(*image.shape, *values.shape[1:])
        )

        repeated = query.unsqueeze(2).expand(-1, -1, num_images, -1).contiguous()  # [B, Q, M, C]
        positioned = layer.query_proj(repeated) + layer.age_embedding[age]
        offsets = layer.sampling_offsets(positioned).unflatten(-1, (layer.num_heads, 1, layer.num_points, 2))
        samples = (layer.num_heads, layer.num_levels, layer.num_points)
        logits = layer.attention_weights(positioned).unflatten(-1, samples)  # [B, Q, M, H, L, P]
        cells = query.new_tensor(layer.base if base is None else base)
        points = reference_points.expand(*query.shape[:2], 2)[:, :, None, None, None, None]
        locations = (points + offsets / cells).expand(*logits.shape, 2)

        masked = logits.masked_fill(~seen[..., None, None, None], -torch.inf)
        masked = masked.permute(0, 1, 3, 2, 4, 5).flatten(3)  # [B, Q, H, M*L*P]
        weights = torch.cat([torch.zeros_like(masked[..., :1]), masked], dim=-1).softmax(-1)
        assert layer.null_value is not None, "the released model has a null"
        sampled = mmfs.ms_deform_attn(
            copied.flatten(1, 2),
            list(layer.spatial_shapes) * num_images,
            locations.permute(0, 1, 3, 2, 4, 5, 6).flatten(3, 4).contiguous(),
            weights[..., 1:].unflatten(-1, (num_images * layer.num_levels, layer.num_points)).contiguous(),
        )
        out: Tensor = layer.output_proj(sampled + (weights[..., :1] * layer.null_value).flatten(2))
        return out


def as_released(model: MMInterleaved) -> MMInterleaved:
    """A copy of a model whose synchronizers repeat their queries."""
    model = copy.deepcopy(model)
    for synchronizer in (module for module in model.modules() if isinstance(module, Synchronizer)):
        synchronizer.mmfs = cast(MMFS, RepeatedMMFS(synchronizer.mmfs))
    return model


def train_as_released(model: MMInterleaved, batch: Batch) -> None:
    """The gradient of the paper's loss: the U-Net runs on every image, those without a loss included, in one graph."""
    decoder, config = model.image_decoder, model.config
    every = drawing_all(batch)
    text_losses, hidden, features = model.read(batch)
    errors = decoder.loss(
        every.drawn_pixels,
        decoder.condition(*gather_context(hidden, every)),
        values=decoder.unet.project_values(features),
        visible=image_visible(every, config.image_decoder.context_images),
        keys=every.drawn_keys,
    )  # [N]
    counts = torch.zeros_like(errors).index_fill(0, batch.drawn, 1.0)
    image_loss = (errors * counts).sum() / max(len(batch.drawn), 1)
    text_loss = text_losses.sum() / max(int((batch.targets >= 0).sum()), 1)
    (text_loss + config.image_loss_weight * image_loss).backward()


def drawing_all(batch: Batch) -> Batch:
    """The batch with all images drawn; those that were not are drawn in black."""
    num_images = len(batch.pixel_values)
    pixels = batch.drawn_pixels.new_zeros(num_images, *batch.drawn_pixels.shape[1:])
    keys = torch.zeros(num_images, dtype=torch.int64)
    pixels[batch.drawn], keys[batch.drawn] = batch.drawn_pixels, batch.drawn_keys
    return replace(batch, drawn=torch.arange(num_images), drawn_pixels=pixels, drawn_keys=keys)


def gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """All of them in one row; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
