"""Images to visual tokens for the language model and multi-scale features for MMFS (paper section 3.2, part 1).

Letters: N images, h x w pixels, E prefix tokens, G patches and C channels of the ViT, S pixels of all four levels
together.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.component_configs import VisualTokenizerConfig
from models.position import resized_sincos_2d, sincos_2d
from models.qformer import QFormer
from models.resampler import Resampler
from models.vision_encoders.families import encoder_class
from models.vision_encoders.interface import VisionEncoder
from models.vit_adapter import Shapes, ViTAdapter


class VisualTokenizer(nn.Module):
    """A ViT with ViT-Adapter, and a resampler on its last hidden state.

    Args:
        config: sizes.
        lm_hidden: width of the language model's embeddings.
        vision_encoder: a ViT that was loaded already and fits `config.vision_encoder`. None: a new one.

    Raises:
        ValueError: no encoder is of the configuration's `model_type`, or as for its class, `ViTAdapter`, `Resampler`
            and `QFormer`.
    """

    image_mean: Tensor  # [3, 1, 1]
    image_std: Tensor  # [3, 1, 1]

    def __init__(
        self, config: VisualTokenizerConfig, lm_hidden: int, vision_encoder: VisionEncoder | None = None
    ) -> None:
        super().__init__()
        self.config = config
        if vision_encoder is None:
            model_type = config.vision_encoder.get("model_type")
            vision_encoder = encoder_class(model_type, "visual_tokenizer.vision_encoder").new(config.vision_encoder)
        self.dim = dim = vision_encoder.hidden_size
        if not config.pooling_head:
            vision_encoder.drop_pooling_head()
        self.image_side = vision_encoder.image_side  # of the encoder's position table
        self.adapter = ViTAdapter(
            vision_encoder,
            num_blocks=config.adapter_blocks,
            num_heads=config.adapter_heads,
            num_points=config.adapter_points,
            prior_channels=config.prior_channels,
            prior_scale=config.prior_scale,
        )
        projected = config.resampler_input == "projected"
        self.hidden_proj = nn.Linear(dim, dim) if projected else nn.Identity()
        self.hidden_norm = nn.LayerNorm(dim, eps=1e-6 if projected else 1e-5)
        self.input_norm = nn.LayerNorm(dim, eps=1e-6) if projected else nn.Identity()
        sizes: dict[str, Any] = {
            "num_queries": config.num_visual_tokens,
            "dim": config.resampler_dim,
            "input_dim": dim,
            "output_dim": lm_hidden,
            "num_layers": config.resampler_layers,
            "num_heads": config.resampler_heads,
        }
        self.resampler = Resampler(**sizes) if config.qformer is None else QFormer(**sizes, **asdict(config.qformer))
        to_lm = self.resampler.output_proj
        assert isinstance(to_lm, nn.Linear)
        nn.init.normal_(to_lm.weight, std=config.visual_token_init)
        nn.init.zeros_(to_lm.bias)
        mean, std = config.image_mean or vision_encoder.IMAGE_MEAN, config.image_std or vision_encoder.IMAGE_STD
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def spatial_shapes(self) -> Shapes:
        """(h, w) of the four levels of `features` for images of the configured size, finest first."""
        return self.adapter.level_shapes(*self.config.resolved_image_size)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            pixel_values: [N, 3, h, w] in [0, 1]. N may be 0; h and w are multiples of the patch size.

        Returns:
            visual tokens [N, num_visual_tokens, lm_hidden], and features [N, S, C], level by level, finest first
            (`adapter.level_shapes(h, w)`), with their positions added.

        Raises:
            ValueError: a side is not a multiple of the patch size.
        """
        height, width = pixel_values.shape[-2:]
        normalised = (pixel_values - self.image_mean) / self.image_std
        hidden, maps = self.adapter(normalised.to(self.hidden_norm.weight.dtype))  # [N, E + G, C], 4 of [N, C, h, w]
        levels = [
            rearrange(map_, "n c h w -> n (h w) c") + self._positions(map_.shape[-2], map_.shape[-1], map_)
            for map_ in maps
        ]

        patch_positions = self._positions(*self.adapter.grid_shape(height, width), hidden)  # [G, C]
        positions = F.pad(patch_positions, (0, 0, self.adapter.num_prefix_tokens, 0))  # a class token has no position
        inputs = self.input_norm(self.hidden_norm(self.hidden_proj(hidden)) + positions)
        return self.resampler(inputs), torch.cat(levels, dim=1)

    def _positions(self, height: int, width: int, like: Tensor) -> Tensor:
        """[height * width, C], counted in patches of the encoder's own size, so that one point of the image has one
        code on every level and at every resolution."""
        grid = self.adapter.grid_shape(self.image_side, self.image_side)
        if self.config.position_table:
            return resized_sincos_2d(height, width, self.dim, table=grid, device=like.device).to(like)
        return sincos_2d(height, width, self.dim, grid=grid, device=like.device).to(like)
