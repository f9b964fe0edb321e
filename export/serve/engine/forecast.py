"""How much memory a document will take: measured on a small one when the server starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.denoising_options import Denoising
from models.generation.state import GenerativeModel, Piece, processor_of

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
        """Read a token, then some more, then an image, and have it drawn from."""
        processor, config = processor_of(model), model.config
        state = model.begin_generation(1)
        sizes: list[int] = []
        pixels = torch.zeros(3, processor.height, processor.width)
        turns: list[list[Piece]] = [
            [[config.bos_token_id]],
            [[config.bos_token_id] * (NUM_TOKENS - 1)],
            [[config.begin_of_image_id], pixels, [config.begin_of_image_id]],
        ]
        for pieces in turns:
            state.read([pieces])
            if len(sizes) == 2:
                state.begin_drawing([0], [0], Denoising(num_inference_steps=1)).step()
            sizes.append(state.copied([0]).num_bytes)
        per_token = (sizes[1] - sizes[0]) // (NUM_TOKENS - 1)
        num_tokens = config.visual_tokenizer.num_visual_tokens + 2
        return cls(per_token, max(0, sizes[2] - sizes[1] - num_tokens * per_token))

    def of(self, num_tokens: int, num_images: int) -> int:
        """Bytes of a document of so many tokens, visual ones among them, and images."""
        return num_tokens * self.bytes_per_token + num_images * self.bytes_per_image
