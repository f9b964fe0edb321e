"""Gemma 3 (arXiv:2503.19786), text alone: norms before and after attention, and embeddings scaled by sqrt(C)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.language_models.interface import LanguageHost


class Gemma3Host(LanguageHost):
    """Attention's result passes through a norm before it is added."""

    ATTENDED = "post_attention_layernorm"

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        if settings.get("use_bidirectional_attention"):
            raise ValueError(
                f"{where} attends in both directions (use_bidirectional_attention), as models of text embeddings do. "
                "Expected one that writes text, from left to right, such as google/gemma-3-1b-it."
            )
        if settings.get("final_logit_softcapping") is not None:
            raise ValueError(
                f"{where} limits its logits (final_logit_softcapping {settings['final_logit_softcapping']}), which the "
                "Gemma 3 models do not, and MM-Interleaved does not compute. Expected null."
            )

    @property
    def embedding_scale(self) -> float:
        return self.model.get_input_embeddings().scalar_embed_scale
