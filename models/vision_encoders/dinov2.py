"""DINOv2 (arXiv:2304.07193), without registers and with them (arXiv:2309.16588)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from models.vision_encoders.interface import IMAGENET_MEAN, IMAGENET_STD, VisionEncoder


class Dinov2Encoder(VisionEncoder):
    """A class token before the patches, and a norm after the last layer; the pooled output is the class token."""

    MODEL = Dinov2Model
    CONFIG = Dinov2Config
    IMAGE_MEAN = IMAGENET_MEAN
    IMAGE_STD = IMAGENET_STD

    @property
    def num_prefix_tokens(self) -> int:
        return 1

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.model.encoder.layer

    def embed(self, pixel_values: Tensor) -> Tensor:
        return self.model.embeddings(pixel_values)  # interpolates by itself

    def last_hidden_state(self, hidden: Tensor) -> Tensor:
        return self.model.layernorm(hidden)

    def unused(self) -> Sequence[nn.Module | nn.Parameter]:
        mask_token = self.model.embeddings.mask_token  # stood for hidden patches in pre-training
        return [] if mask_token is None else [mask_token]

    def drop_pooling_head(self) -> None:
        """There is none."""


class Dinov2WithRegistersEncoder(Dinov2Encoder):
    """The same with registers between the class token and the patches."""

    MODEL = Dinov2WithRegistersModel
    CONFIG = Dinov2WithRegistersConfig

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.model.config.num_register_tokens
