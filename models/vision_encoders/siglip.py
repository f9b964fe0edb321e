"""SigLIP (arXiv:2303.15343) and, of fixed resolution, SigLIP 2 (arXiv:2502.14786): `siglip` in transformers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from models.vision_encoders.interface import VisionEncoder


class SiglipEncoder(VisionEncoder):
    """Patches alone, and a norm after the last layer; the pooled output is made by an attention head."""

    MODEL = SiglipVisionModel
    CONFIG = SiglipVisionConfig
    IMAGE_MEAN = (0.5, 0.5, 0.5)
    IMAGE_STD = (0.5, 0.5, 0.5)

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.model.encoder.layers

    def embed(self, pixel_values: Tensor) -> Tensor:
        return self.model.embeddings(pixel_values, interpolate_pos_encoding=True)

    def last_hidden_state(self, hidden: Tensor) -> Tensor:
        return self.model.post_layernorm(hidden)

    def unused(self) -> Sequence[nn.Module | nn.Parameter]:
        return [self.model.head] if self.model.use_head else []

    def drop_pooling_head(self) -> None:
        if self.model.use_head:
            self.model.use_head = False
            del self.model.head
