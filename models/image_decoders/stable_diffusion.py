"""Stable Diffusion 1.x and 2.x: the U-Net reads context tokens and nothing else (paper 3.2)."""

from __future__ import annotations

from torch import Tensor

from models.image_decoders.condition import Condition
from models.image_decoders.image_decoder import ImageDecoder


class StableDiffusion(ImageDecoder):
    """An image decoder whose U-Net takes no conditions beside the tokens; also every U-Net on folded pixels."""

    def condition(self, context: Tensor, exists: Tensor) -> Condition:
        return Condition(self.read_context(context, exists))

    def negative(self, condition: Condition) -> Condition:
        return Condition(self.negative_context.to(condition.tokens).expand_as(condition.tokens))
