"""Stable Diffusion XL (arXiv:2307.01952): the U-Net also takes a pooled embedding and the sizes of the image.

Letters: M images to draw, n context tokens, P channels of the pooled embedding (1280 for SDXL base).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.image_decoders.condition import Condition
from models.image_decoders.image_decoder import ImageDecoder

NUM_TIME_IDS = 6
"""(height, width) of the original image, (top, left) of the crop, (height, width) of the drawn image (section 2.2)."""


class StableDiffusionXL(ImageDecoder):
    """An image decoder whose U-Net has `addition_embed_type="text_time"`.

    SDXL's cross-attention reads the penultimate states of two text encoders, joined to 768 + 1280 = 2048 channels, and
    its time embedding receives the second encoder's pooled output, which is the state of one token (the end of the
    text) behind a linear map. Here the resampler makes both of the language model's states: n tokens of 2048 channels,
    and one more token, which the linear map `pooled_proj` turns into the pooled output.

    The sizes are constants: an original as large as the drawn image and a crop at (0, 0), the defaults of SDXL's own
    pipeline. Training uses the same constants, because a batch does
    not say how large an image was before it was cropped and resized.
    """

    num_extra_tokens = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        width = pooled_width(self.config.unet)
        self.pooled_proj = nn.Linear(self.negative_context.shape[1], width, bias=False)
        self.negative_pooled = nn.Parameter(torch.randn(width) * 0.02)

    def condition(self, context: Tensor, exists: Tensor) -> Condition:
        tokens = self.read_context(context, exists)  # [M, n + 1, cross_attention_dim]
        pooled = self.pooled_proj(tokens[:, -1])
        return Condition(tokens[:, :-1], {"text_embeds": pooled, "time_ids": self._time_ids(tokens.shape[0])})

    def negative(self, condition: Condition) -> Condition:
        tokens = self.negative_context.to(condition.tokens).expand_as(condition.tokens)
        pooled = self.negative_pooled.to(condition.tokens).expand_as(condition.added["text_embeds"])
        return Condition(tokens, {**condition.added, "text_embeds": pooled})

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            **super().condition_shapes,
            "text_embeds": tuple(self.negative_pooled.shape),
            "time_ids": (NUM_TIME_IDS,),
        }

    def _time_ids(self, num_images: int) -> Tensor:
        """[M, 6] float32 in pixels; filled on its device, so that it can be traced and recorded in CUDA graphs."""
        height, width = self.config.drawn_image_size
        sizes = (height, width, 0, 0, height, width)
        like = self.negative_pooled
        columns = [torch.full((num_images, 1), size, dtype=torch.float32, device=like.device) for size in sizes]
        return torch.cat(columns, dim=1)


def pooled_width(unet: dict[str, Any]) -> int:
    """P: the input channels of the U-Net's added embedding without those of the embedded sizes.

    Raises:
        ValueError: nothing, or the arguments do not say.
    """
    all_together, each = unet.get("projection_class_embeddings_input_dim"), unet.get("addition_time_embed_dim")
    if all_together is None or each is None or all_together <= NUM_TIME_IDS * each:
        raise ValueError(
            f"The U-Net has addition_embed_type 'text_time', addition_time_embed_dim {each} and "
            f"projection_class_embeddings_input_dim {all_together}. Expected the last to be {NUM_TIME_IDS} times the "
            "other plus the width of the pooled embedding, as 256 and 2816 of SDXL base."
        )
    width: int = all_together - NUM_TIME_IDS * each
    return width
