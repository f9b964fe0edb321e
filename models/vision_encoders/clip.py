"""CLIP (arXiv:2103.00020), or its image half: the paper's vision encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from models.vision_encoders.interface import VisionEncoder


class CLIPEncoder(VisionEncoder):
    """A class token before the patches, a norm before the first layer, none after the last."""

    MODEL = CLIPVisionModel
    CONFIG = CLIPVisionConfig
    IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
    IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

    @property
    def num_prefix_tokens(self) -> int:
        return 1

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.model.encoder.layers

    def embed(self, pixel_values: Tensor) -> Tensor:
        return self.model.pre_layrnorm(self.model.embeddings(pixel_values, interpolate_pos_encoding=True))

    def last_hidden_state(self, hidden: Tensor) -> Tensor:
        return hidden

    def unused(self) -> Sequence[nn.Module | nn.Parameter]:
        return [self.model.post_layernorm]

    def drop_pooling_head(self) -> None:
        self.model.post_layernorm = nn.Identity()
