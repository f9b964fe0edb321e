"""A multi-scale feature pyramid from a plain ViT: ViT-Adapter (arXiv:2205.08534, sections 3.2 to 3.4).

Letters: N images, h x w pixels, C channels, E prefix tokens of the ViT, G patches (rows times columns), S' pixels of
the three coarser levels together, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmfs import MSDeformAttn
from models.position import pixel_centres
from models.vision_encoders.interface import VisionEncoder

Shapes = tuple[tuple[int, int], ...]
"""(h, w) per level."""


class ViTAdapter(nn.Module):
    """Exchanges features between a ViT and an image pyramid, without touching the ViT's code or state dict.

    A convolutional *spatial prior* sees the image at full detail. The ViT's layers run in `num_blocks` groups; before
    each group an *injector* adds to the patches what they attend to in the pyramid (scaled by gamma, which starts at
    0, so that the ViT is unchanged at first), after each an *extractor* updates the pyramid from the patches.

    Args:
        encoder: the ViT; its module is kept as `vision_model`. Weights that its last hidden state does not depend on,
            such as those of the pooled output, are frozen.
        num_blocks: groups of layers; divides the number of the ViT's layers.
        num_heads: heads of the deformable attention.
        num_points: points per head and level.
        value_ratio: width of the attention's values, in multiples of C.
        prior_channels: channels of the spatial prior's first convolutions; the deeper ones have 2 and 4 times as many.
        prior_scale: pixels of the spatial prior's input for each patch, a multiple of 8 or the patch size. The levels
            have 1/4, 1/8, 1/16 and 1/32 of that input's size: with 16, they are 4, 2, 1 and 1/2 times the patch grid.
        conv_ffn_ratio: hidden width of the extractors' feed-forward, in multiples of C.
        num_extra_extractors: extractors that refine the pyramid once more after the last block.

    Raises:
        ValueError: the ViT's layers do not divide into `num_blocks`, or `prior_scale` is neither a multiple of 8 nor
            the patch size.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        *,
        num_blocks: int = 4,
        num_heads: int = 16,
        num_points: int = 4,
        value_ratio: float = 0.5,
        prior_channels: int = 64,
        prior_scale: int = 16,
        conv_ffn_ratio: float = 0.25,
        num_extra_extractors: int = 2,
    ) -> None:
        super().__init__()
        dim, num_layers = encoder.hidden_size, len(encoder.layers)
        if num_layers % num_blocks:
            raise ValueError(
                f"The {num_layers} layers of the vision encoder do not divide into {num_blocks} blocks; choose a "
                "divisor."
            )
        self.patch_size = encoder.patch_size
        if prior_scale != self.patch_size and (prior_scale < 8 or prior_scale % 8):
            raise ValueError(
                f"prior_scale is {prior_scale}; expected a multiple of 8, so that the two finest levels (1/4 and 1/8 "
                "of the spatial prior's input) are whole multiples of the patch grid, or the patch size "
                f"{self.patch_size}, so that the spatial prior sees the image as it is."
            )
        self.prior_scale = prior_scale
        self.encoder = encoder  # a view of `vision_model`, no module
        self.vision_model = encoder.model
        self.num_prefix_tokens = encoder.num_prefix_tokens
        for unused in encoder.unused():
            unused.requires_grad_(False)

        self.spatial_prior = SpatialPrior(prior_channels, dim)
        self.level_embedding = nn.Parameter(torch.randn(3, dim) * 0.02)

        def extractor() -> Extractor:
            return Extractor(dim, num_heads, num_points, value_ratio, conv_ffn_ratio)

        self.injectors = nn.ModuleList(Injector(dim, num_heads, num_points, value_ratio) for _ in range(num_blocks))
        self.extractors = nn.ModuleList(extractor() for _ in range(num_blocks))
        self.extra_extractors = nn.ModuleList(extractor() for _ in range(num_extra_extractors))
        self.upsample = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of height x width pixels.

        Raises:
            ValueError: a side is not a positive multiple of the patch size.
        """
        rows, columns = height // self.patch_size, width // self.patch_size
        if not rows or not columns or (rows * self.patch_size, columns * self.patch_size) != (height, width):
            raise ValueError(
                f"The image has {height} x {width} pixels; both sides must be positive multiples of the patch size "
                f"{self.patch_size}. Resize or pad it first."
            )
        return rows, columns

    def level_shapes(self, height: int, width: int) -> Shapes:
        """(h, w) of the four maps for an image of height x width pixels, finest first."""
        h, w = (-(-side * self.prior_scale // 4) for side in self.grid_shape(height, width))  # rounded up
        shapes = [(h, w)]
        for _ in range(3):
            h, w = (h + 1) // 2, (w + 1) // 2  # a 3x3 convolution of stride 2 rounds up
            shapes.append((h, w))
        return tuple(shapes)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            pixel_values: [N, 3, h, w], normalised by the encoder's mean and standard deviation, in the parameters'
                dtype. N may be 0; h and w are multiples of the patch size, the position embeddings are interpolated
                when they are not the configured size.

        Returns:
            The ViT's last hidden state [N, E + G, C], as its module alone gives it, prefix tokens first; and four maps
            [N, C, h, w] of the sizes of `level_shapes`, finest first.
        """
        num_images, _, height, width = pixel_values.shape
        grid, shapes = self.grid_shape(height, width), self.level_shapes(height, width)
        if num_images == 0:  # the ViT's attention cannot reshape an empty tensor
            dim = self.level_embedding.shape[1]
            maps = [pixel_values.new_empty(0, dim, h, w) for h, w in shapes]
            return pixel_values.new_empty(0, self.num_prefix_tokens + grid[0] * grid[1], dim), maps

        patch_centres = pixel_centres(*grid, device=pixel_values.device)  # [G, 2]
        level_centres = torch.cat([pixel_centres(h, w, device=pixel_values.device) for h, w in shapes[1:]])  # [S', 2]

        finest, *coarser = self.spatial_prior(_resize(pixel_values, tuple(side * self.prior_scale for side in grid)))
        levels = [_flatten(map_) + embedding for map_, embedding in zip(coarser, self.level_embedding, strict=True)]
        pyramid = torch.cat(levels, dim=1)  # [N, S', C]

        hidden = self.encoder.embed(pixel_values)  # [N, E + G, C]
        stages = []
        for layers, injector, extractor in zip(self._layer_groups(), self.injectors, self.extractors, strict=True):
            patches = injector(self._patches(hidden), pyramid, patch_centres, shapes[1:])
            hidden = self._with_patches(hidden, patches)
            for layer in layers:
                hidden = self.encoder.run_layer(layer, hidden)
            pyramid = extractor(pyramid, self._patches(hidden), level_centres, shapes[1:], grid)
            stages.append(_unflatten(self._patches(hidden), grid))
        for extractor in self.extra_extractors:
            pyramid = extractor(pyramid, self._patches(hidden), level_centres, shapes[1:], grid)

        coarser = _split(pyramid, shapes[1:])
        h, w = shapes[0]
        maps = [finest + self.upsample(coarser[0])[..., :h, :w], *coarser]  # an odd level is not twice the next
        for level, stage in enumerate(spread(stages)):
            maps[level] = maps[level] + _resize(stage, shapes[level])
        return self.encoder.last_hidden_state(hidden), maps

    def _patches(self, hidden: Tensor) -> Tensor:
        """[N, E + G, C] -> [N, G, C]."""
        return hidden[:, self.num_prefix_tokens :] if self.num_prefix_tokens else hidden

    def _with_patches(self, hidden: Tensor, patches: Tensor) -> Tensor:
        """[N, E + G, C] with these patches [N, G, C]."""
        if not self.num_prefix_tokens:
            return patches  # an empty tensor that is joined would stay in an exported graph
        return torch.cat([hidden[:, : self.num_prefix_tokens], patches], dim=1)

    def _layer_groups(self) -> list[list[nn.Module]]:
        layers = list(self.encoder.layers)
        size = len(layers) // len(self.injectors)
        return [layers[first : first + size] for first in range(0, len(layers), size)]


def spread(stages: Sequence[Tensor]) -> list[Tensor]:
    """The stage that each of the four levels receives: with four, one each in order; the last level gets the last."""
    return [stages[-(-(level + 1) * len(stages) // 4) - 1] for level in range(4)]


class SpatialPrior(nn.Module):
    """Convolutions that see the image in more detail than patches do (ViT-Adapter 3.2): four maps of C channels."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, channels, stride=2),
            *_convolution(channels, channels),
            *_convolution(channels, channels),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        widths = [channels, 2 * channels, 4 * channels, 4 * channels]
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(before, after, stride=2)) for before, after in pairwise(widths)
        )
        self.proj = nn.ModuleList(nn.Conv2d(width, dim, kernel_size=1) for width in widths)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[N, 3, h, w] -> [N, C, h', w'] with 1/4, 1/8, 1/16 and 1/32 of the sides, rounded up."""
        # Channels last, the norms and the projections work on contiguous rows.
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            maps.append(down(maps[-1]))
        return [proj(map_) for proj, map_ in zip(self.proj, maps, strict=True)]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [N, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _convolution(before: int, after: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, ChannelNorm(after, eps=1e-6), nn.ReLU()


class Injector(nn.Module):
    """Patches attend to the three coarser levels of the pyramid: `x + gamma * attention(norm(x), norm(pyramid))`."""

    def __init__(self, dim: int, num_heads: int, num_points: int, value_ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.feature_norm = nn.LayerNorm(dim)
        self.attention = MSDeformAttn(dim, n_levels=3, n_heads=num_heads, n_points=num_points, ratio=value_ratio)
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, pyramid: Tensor, patch_centres: Tensor, shapes: Shapes) -> Tensor:
        """[N, G, C], [N, S', C], [G, 2] (x, y) in [0, 1], sizes of the pyramid's levels -> [N, G, C]."""
        reference_points = _for_levels(patch_centres, patches.shape[0], len(shapes))
        found = self.attention(self.query_norm(patches), reference_points, self.feature_norm(pyramid), shapes)
        return patches + self.gamma * found


class Extractor(nn.Module):
    """The pyramid attends to the patches, then passes a feed-forward network with a convolution; both residual."""

    def __init__(self, dim: int, num_heads: int, num_points: int, value_ratio: float, conv_ffn_ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.feature_norm = nn.LayerNorm(dim)
        self.attention = MSDeformAttn(dim, n_levels=1, n_heads=num_heads, n_points=num_points, ratio=value_ratio)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = ConvFFN(dim, int(dim * conv_ffn_ratio))

    def forward(
        self, pyramid: Tensor, patches: Tensor, level_centres: Tensor, shapes: Shapes, grid: tuple[int, int]
    ) -> Tensor:
        """[N, S', C], [N, G, C], [S', 2] (x, y) in [0, 1], sizes of the pyramid's levels and of the patch grid
        -> [N, S', C]."""
        reference_points = _for_levels(level_centres, patches.shape[0], 1)
        found = self.attention(self.query_norm(pyramid), reference_points, self.feature_norm(patches), (grid,))
        pyramid = pyramid + found
        return pyramid + self.ffn(self.ffn_norm(pyramid), shapes)


class ConvFFN(nn.Module):
    """Feed-forward whose hidden channels are mixed with their neighbours by a depth-wise convolution, the same one on
    every level (ViT-Adapter 3.4; PVT v2)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.depthwise = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, pyramid: Tensor, shapes: Shapes) -> Tensor:
        """[N, S', C] -> [N, S', C]."""
        mixed = [_flatten(self.depthwise(map_)) for map_ in _split(self.fc1(pyramid), shapes)]
        return self.fc2(F.gelu(torch.cat(mixed, dim=1)))


def _for_levels(centres: Tensor, num_images: int, num_levels: int) -> Tensor:
    """Reference points of MSDeformAttn, the same on every level: [Q, 2] -> [N, Q, L, 2]."""
    return centres[None, :, None].expand(num_images, -1, num_levels, -1)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _flatten(maps: Tensor) -> Tensor:
    return rearrange(maps, "n c h w -> n (h w) c")


def _unflatten(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    return rearrange(tokens, "n (h w) c -> n c h w", h=shape[0], w=shape[1])


def _split(pyramid: Tensor, shapes: Shapes) -> list[Tensor]:
    """[N, S', C] -> one [N, C, h, w] per level."""
    levels = pyramid.split([h * w for h, w in shapes], dim=1)
    return [_unflatten(level, shape) for level, shape in zip(levels, shapes, strict=True)]
