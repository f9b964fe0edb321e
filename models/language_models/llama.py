"""LLaMA (arXiv:2302.13971, Vicuna is one) and those built like it: Mistral, Qwen 2 and Qwen 3."""

from __future__ import annotations

from models.language_models.interface import LanguageHost


class LlamaHost(LanguageHost):
    """Attention's result is added as it is."""
