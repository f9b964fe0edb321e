"""Phi 3 (arXiv:2404.14219) and Phi 4 mini: one matrix for query, key and value, and dropout on what a layer adds."""

from __future__ import annotations

from typing import Any

from models.language_models.interface import LanguageHost


class Phi3Host(LanguageHost):
    """Attention's result passes through a dropout before it is added.

    With rotary frequencies of two sets (LongRoPE), transformers uses the long set for all tokens as soon as one of the
    batch is beyond the length of the first training, which does not fit keys that were cached before. Here the short
    set is always used, and `LanguageModelConfig.max_tokens` is that length.
    """

    ATTENDED = "resid_attn_dropout"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        rotary = model.get_decoder().rotary_emb
        if rotary.rope_type == "longrope":
            rotary.rope_type = "default"  # leave the frequencies as they were made: the short set
