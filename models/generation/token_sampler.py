"""From logits to the next token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.config import MMInterleavedConfig
from models.generation.options import GenerationOptions


class TokenSampler:
    """Picks the next token of a document.

    Args:
        options: do_sample, temperature, top_p, top_k, repetition_penalty and min_new_tokens.
        config: names the tokens that are never written.
        seed: of the sampling.
    """

    def __init__(self, options: GenerationOptions, config: MMInterleavedConfig, seed: int) -> None:
        never = {config.pad_token_id, config.bos_token_id, config.image_token_id}
        self.never = sorted(never - {config.eos_token_id})  # some models use it as begin of text too
        self.begin_of_image_id = config.begin_of_image_id
        self.eos_token_id = config.eos_token_id
        self.min_new_tokens = options.min_new_tokens
        self.samples = options.samples
        self.generator = torch.Generator().manual_seed(seed)
        self.before, self.after = LogitsProcessorList(), LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.before.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
        if self.samples:
            self.after.append(TemperatureLogitsWarper(float(options.sampling_temperature)))
            if options.top_k:
                self.after.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self.after.append(TopPLogitsWarper(options.top_p))

    def scores(self, logits: Tensor, written: list[int], *, may_draw: bool) -> Tensor:
        """Logits [vocabulary] on the CPU to scores, -inf where a token is forbidden. `written`: the text so far.

        Raises:
            ValueError: the logits hold NaN.
        """
        if logits.isnan().any():
            raise ValueError(
                "The language model's logits hold NaN, so no token can be chosen. Its weights are damaged, or overflow "
                "in this dtype: load it with dtype=torch.float32 to see which."
            )
        forbidden = self.never if may_draw else [*self.never, self.begin_of_image_id]
        if len(written) < self.min_new_tokens:
            forbidden = [*forbidden, self.eos_token_id]
        ids = torch.tensor([written], dtype=torch.int64)
        scores = self.before(ids, logits.unsqueeze(0))
        return self.after(ids, SuppressTokensLogitsProcessor(forbidden)(ids, scores))[0]

    def __call__(self, logits: Tensor, written: list[int], *, may_draw: bool) -> int:
        """Logits [vocabulary] on the CPU to the next token; `<BoI>` only where one may draw."""
        scores = self.scores(logits, written, may_draw=may_draw)
        if not self.samples:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
