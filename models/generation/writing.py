"""From logits to text: which token comes next, and what of it can be shown already."""

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
from models.processor import MMInterleavedProcessor


class TokenChoice:
    """Picks the next token of a document.

    Args:
        options: temperature, top_p, top_k and repetition_penalty.
        config: names the tokens that are never written.
        seed: of the sampling.
    """

    def __init__(self, options: GenerationOptions, config: MMInterleavedConfig, seed: int) -> None:
        never = {config.pad_token_id, config.bos_token_id, config.image_token_id}
        self.never = sorted(never - {config.eos_token_id})  # some language models begin with their end of text
        self.begin_of_image_id = config.begin_of_image_id
        self.samples = options.temperature > 0
        self.dice = torch.Generator().manual_seed(seed)
        self.before, self.after = LogitsProcessorList(), LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.before.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
        if self.samples:
            self.after.append(TemperatureLogitsWarper(float(options.temperature)))
            if options.top_k:
                self.after.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self.after.append(TopPLogitsWarper(options.top_p))

    def scores(self, logits: Tensor, written: list[int], *, may_draw: bool) -> Tensor:
        """Logits [vocabulary] on the CPU to scores, -inf where a token is forbidden. `written`: the text so far."""
        forbidden = self.never if may_draw else [*self.never, self.begin_of_image_id]
        ids = torch.tensor([written], dtype=torch.int64)
        scores = self.before(ids, logits.unsqueeze(0))
        return self.after(ids, SuppressTokensLogitsProcessor(forbidden)(ids, scores))[0]

    def __call__(self, logits: Tensor, written: list[int], *, may_draw: bool) -> int:
        """Logits [vocabulary] on the CPU to the next token; `<BoI>` only where one may draw."""
        scores = self.scores(logits, written, may_draw=may_draw)
        if not self.samples:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.dice))


class TextWriter:
    """Token ids to text pieces. A character whose bytes are spread over tokens is held back until it is whole, and what
    may be the beginning of a stop text until it is not.

    Args:
        processor: with the tokenizer.
        stops: texts that end the writing; not shown.
    """

    def __init__(self, processor: MMInterleavedProcessor, stops: tuple[str, ...] = ()) -> None:
        self.processor = processor
        self.stops = stops
        self.ids: list[int] = []
        self.shown = 0
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that this token makes certain; `is_stopped` says whether it completed a stop text."""
        self.ids.append(token)
        text = self.processor.decode_text(self.ids)
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            return self._show(text[: min(ends)])
        if text.endswith("\ufffd"):
            return ""
        return self._show(text[: len(text) - self._num_held_back(text)])

    def flush(self) -> str:
        """The rest; what comes next begins a new text."""
        piece = "" if self.is_stopped else self._show(self.processor.decode_text(self.ids))
        self.ids, self.shown = [], 0
        return piece

    def _show(self, text: str) -> str:
        piece, self.shown = text[self.shown :], max(len(text), self.shown)
        return piece

    def _num_held_back(self, text: str) -> int:
        """Characters at the end that a stop text may begin with."""
        beginnings = [stop[:length] for stop in self.stops for length in range(1, len(stop))]
        return max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
