"""A diffusers U-Net whose pixels attend to earlier images through MMFS.

Letters: B images being drawn, C channels and h x w size of one U-Net map, N images of the bank, S pyramid pixels,
F feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn

from mmfs.arguments import MMFSAttentionArguments
from models.component_configs import SynchronizerConfig
from models.in_this_call import Extended, InThisCall, extend
from models.position import pixel_centres, resized_sincos_2d, sincos_2d
from models.sampling_recorder import SamplingRecorder
from models.synchronizer import BoundSynchronizer, Synchronizer, bind, each, make_mmfs


class UNetSynchronizer(Synchronizer):
    """MMFS of one map of the U-Net: `map + zero_conv(MMFS(norm(map) + position, norm(features)))` (paper 3.2).

    Every pixel is a query whose reference point is its own centre; offsets are in pixels of this map, or in images.
    Positions are sine and cosine of its row and column, or with `position_table` those of a square table of that side,
    resized.

    Args:
        channels: C.
        feature_dim: F.
        spatial_shapes: (h, w) of the pyramid's levels.
        config: sizes and choices.
        position_table: side of the table; None: each pixel's own place.
    """

    def __init__(
        self,
        channels: int,
        feature_dim: int,
        spatial_shapes: Sequence[tuple[int, int]],
        config: SynchronizerConfig,
        position_table: int | None = None,
    ) -> None:
        mmfs = make_mmfs(config, channels, feature_dim, spatial_shapes)
        norms = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(feature_dim, eps=1e-6)
        super().__init__(*norms, mmfs, config.image_positions)
        self.position_table = position_table
        self.offsets_in_pixels = config.offset_unit == "cell"
        self.conv = nn.Conv2d(channels, channels, kernel_size=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        hidden: Tensor,
        values: Tensor,
        visible: Tensor,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> Tensor:
        """[B, C, h, w] map, values [N, S, H, D], visible [B, 2] int64 -> the same map plus what the images add."""
        height, width = hidden.shape[-2:]
        query = self.query_norm(rearrange(hidden, "b c h w -> b (h w) c"))
        query = query + self._positions(height, width, query)
        centres = pixel_centres(height, width, device=hidden.device)
        visible = visible.unsqueeze(1).expand(-1, height * width, -1)
        base = (width, height) if self.offsets_in_pixels else None
        seen = self.mmfs(query, centres, visible, values=values, base=base, record=record)
        return hidden + self.conv(rearrange(seen, "b (h w) c -> b c h w", h=height, w=width))

    def _positions(self, height: int, width: int, like: Tensor) -> Tensor:
        """[h*w, C]."""
        channels, side = like.shape[-1], self.position_table
        if side is None:
            return sincos_2d(height, width, channels, device=like.device).to(like.dtype)
        return resized_sincos_2d(height, width, channels, table=(side, side), device=like.device).to(like.dtype)


class SynchronizedHost(Extended):
    """A `UNet2DConditionModel` with synchronizers on some of its maps; `placement` as for `SynchronizedUNet`."""

    placement: Literal["up", "skips"]

    def forward(self, *args: Any, synchronizers: Sequence[BoundSynchronizer] = (), **kwargs: Any) -> Any:
        """As the U-Net's own, and MMFS if there are synchronizers."""
        if not synchronizers:
            return super().forward(*args, **kwargs)
        blocks = cast(Sequence[nn.Module], self.up_blocks)
        replaced: dict[str, InThisCall | Sequence[InThisCall]] = {}
        if self.placement == "up":
            replaced["up_blocks"] = [
                InThisCall(block, partial(_synchronize_output, block, synchronizer))
                for block, synchronizer in zip(blocks, synchronizers, strict=True)
            ]
        else:
            *skips, mid = synchronizers
            middle = cast(nn.Module, self.mid_block)
            replaced["mid_block"] = InThisCall(middle, partial(_synchronize_output, middle, mid))
            up = []
            for block in blocks:  # the up path takes the residuals from the end
                num_residuals = len(cast(nn.ModuleList, block.resnets))
                taken, skips = skips[-num_residuals:], skips[:-num_residuals]
                up.append(InThisCall(block, partial(_synchronize_residuals, block, taken)))
            replaced["up_blocks"] = up
        return self.forward_with(replaced, args, kwargs)


class SynchronizedUNet(nn.Module):
    """`UNet2DConditionModel` (`host`) with synchronizers; its state-dict keys do not change.

    placement "up": one after each up-sampling block (paper 3.2). "skips": one on each residual of the down path and
    one after the middle block, before the up path (the released weights).

    Args:
        host: the U-Net.
        feature_dim: F.
        spatial_shapes: (h, w) of the pyramid's levels.
        mmfs: of every synchronizer. None: the U-Net alone.
        placement: where they are.
        position_table: as for `UNetSynchronizer`.
    """

    def __init__(
        self,
        host: UNet2DConditionModel,
        *,
        feature_dim: int,
        spatial_shapes: Sequence[tuple[int, int]],
        mmfs: SynchronizerConfig | None,
        placement: Literal["up", "skips"],
        position_table: int | None = None,
    ) -> None:
        super().__init__()
        self.host = host
        self.synchronizers = nn.ModuleList()
        if mmfs is None:
            return
        channels = up_channels(host) if placement == "up" else [*skip_channels(host), mid_channels(host)]
        synchronizers = [
            UNetSynchronizer(width, feature_dim, spatial_shapes, mmfs, position_table) for width in channels
        ]
        self.synchronizers.extend(synchronizers)
        extend(host, SynchronizedHost)
        host.placement = placement

    def project_values(self, features: Tensor) -> list[Tensor]:
        """Per synchronizer, what MMFS samples: [N, S, F] -> [N, S, H, D]."""
        return [synchronizer.project_values(features) for synchronizer in each(self.synchronizers)]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        added: Mapping[str, Tensor] | None = None,
        *,
        values: Sequence[Tensor],
        visible: Tensor,
        recorder: SamplingRecorder | None = None,
    ) -> Tensor:
        """What the scheduler calls the model output: noise, velocity, or the image.

        Args:
            sample: [B, c, h, w] noisy latents.
            timestep: [B] or scalar, diffusion time.
            context: [B, n, cross_attention_dim] context tokens.
            added: what this U-Net takes beside them, by the names of diffusers (`added_cond_kwargs`), each with B rows.
            values: per synchronizer [N, S, H, D], from `project_values`.
            visible: [B, 2] int64, range of images of the bank that each drawn image may attend to.
            recorder: gets what each synchronizer asks of the op, a query for each pixel of its map, row by row. None:
                nobody.

        Returns:
            [B, c, h, w], in the dtype of the weights.

        Raises:
            ValueError: another number of values than of synchronizers.
        """
        synchronizers = bind(self.synchronizers, values, visible, recorder=recorder)
        return self.host(
            sample,
            timestep,
            encoder_hidden_states=context,
            added_cond_kwargs=dict(added) if added else None,
            return_dict=False,
            **({"synchronizers": synchronizers} if synchronizers else {}),
        )[0]


def up_channels(unet: UNet2DConditionModel) -> list[int]:
    """Channels after each up-sampling block, first to last."""
    return list(reversed(unet.config.block_out_channels))


def mid_channels(unet: UNet2DConditionModel) -> int:
    """Channels after the middle block."""
    return unet.config.block_out_channels[-1]


def skip_channels(unet: UNet2DConditionModel) -> list[int]:
    """Channels of the residuals that the down path leaves for the up path, first to last."""
    channels = [unet.config.block_out_channels[0]]
    for block, width in zip(unet.down_blocks, unet.config.block_out_channels, strict=True):
        channels += [width] * (len(block.resnets) + len(block.downsamplers or []))
    return channels


def _synchronize_output(block: nn.Module, synchronizer: BoundSynchronizer, *args: Any, **kwargs: Any) -> Tensor:
    return synchronizer(block(*args, **kwargs))


def _synchronize_residuals(
    block: nn.Module,
    synchronizers: Sequence[BoundSynchronizer],
    *args: Any,
    res_hidden_states_tuple: Sequence[Tensor],
    **kwargs: Any,
) -> Any:
    maps = zip(synchronizers, res_hidden_states_tuple, strict=True)
    return block(*args, res_hidden_states_tuple=tuple(sync(map_) for sync, map_ in maps), **kwargs)
