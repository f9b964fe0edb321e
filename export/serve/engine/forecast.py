"""How much memory a document will take: measured on a small one when the server starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.denoising_options import Denoising
from models.generation.state import GenerativeModel, processor_of

NUM_TOKENS = 32
"""Of the document that is measured."""


@dataclass(frozen=True)
class Forecast:
    """What the state of a document takes."""

    bytes_per_token: int
    """Keys, values and states of a token."""

    bytes_per_image: int
    """What MMFS samples of an image, beside its visual tokens."""

    @classmethod
    @torch.no_grad()
    def measured(cls, model: GenerativeModel) -> Forecast:
        """Read a token, then some more; and apart from them an image, and have it drawn from: as many tokens, and the
        image, as the language model has places for."""
        processor, config = processor_of(model), model.config
        limit, num_visual = config.language_model.max_tokens, config.visual_tokenizer.num_visual_tokens
        num_tokens = NUM_TOKENS if limit is None else min(NUM_TOKENS, limit)
        text = model.begin_generation(1)
        text.read([[[config.bos_token_id]]])
        one = per_token = text.copied([0]).num_bytes
        if num_tokens > 1:
            text.read([[[config.bos_token_id] * (num_tokens - 1)]])
            per_token = (text.copied([0]).num_bytes - one) // (num_tokens - 1)
        if limit is not None and num_visual + 2 > limit:
            return cls(per_token, 0)  # no image can be read
        state = model.begin_generation(1)
        pixels = torch.zeros(3, processor.height, processor.width)
        # Then the next image is asked for, if there is a place, so that the first is projected for the U-Net too.
        again = [] if num_visual + 3 > (limit or num_visual + 3) else [[config.begin_of_image_id]]
        state.read([[[config.bos_token_id, config.begin_of_image_id], pixels, *again]])
        state.begin_drawing([0], [0], Denoising(num_inference_steps=1)).step()
        after = num_visual + 1 + len(again)  # tokens more than one
        return cls(per_token, max(0, state.copied([0]).num_bytes - one - after * per_token))

    def of(self, num_tokens: int, num_images: int) -> int:
        """Bytes of a document of so many tokens, visual ones among them, and images."""
        return num_tokens * self.bytes_per_token + num_images * self.bytes_per_image
