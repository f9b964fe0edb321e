"""Which host a `model_type` of transformers is: the one place that lists them."""

from __future__ import annotations

from models.language_models.gemma3 import Gemma3Host
from models.language_models.interface import LanguageHost
from models.language_models.llama import LlamaHost
from models.language_models.phi3 import Phi3Host


def host_class(model_type: str | None, where: str) -> type[LanguageHost]:
    """The class for a snapshot or a configuration.

    Args:
        model_type: as in `config.json` of a snapshot.
        where: the snapshot or configuration, for the message.

    Raises:
        ValueError: no class is for this type.
    """
    match model_type:
        case "llama" | "mistral" | "qwen2" | "qwen3":
            return LlamaHost
        case "gemma3_text":
            return Gemma3Host
        case "phi3":
            return Phi3Host
        case "gemma3":
            raise ValueError(
                f"{where} is a Gemma 3 with a vision encoder of its own. Take one of text alone (model type "
                "gemma3_text), such as google/gemma-3-1b-it."
            )
    raise ValueError(
        f"{where} holds a model of type {model_type!r}. Expected a causal language model of type llama, mistral, "
        "qwen2, qwen3, gemma3_text or phi3."
    )
