"""What MM-Interleaved asks of a language model of transformers: where MMFS goes in, and what differs between families.

Letters: B sequences, T tokens, K tokens that may be attended to, C hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class LanguageHost:
    """A causal language model whose decoder layers add attention to their input, then a feed-forward to that sum.

    This is a view of the module, which keeps its own code and the names of its weights; the `LanguageModel` owns it.
    MMFS goes in between the two additions: it reads the input plus attention's result, and what it computes is added to
    the latter. A family names the module of a layer whose result that is.

    Args:
        model: a causal LM of transformers.

    Raises:
        ValueError: a layer lacks a module that the family names, or the settings ask for what MM-Interleaved does not
            compute.
    """

    ATTENDED: ClassVar[str] = "self_attn"
    """Module of a layer whose result, or the first of whose results, the layer adds to its input."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.check(model.config.to_dict(), "The language model")
        for i, layer in enumerate(model.get_decoder().layers):
            modules = dict(layer.named_children())
            if self.ATTENDED not in modules:
                raise ValueError(
                    f"Layer {i} of the language model, a {type(layer).__name__}, has no {self.ATTENDED}; it has "
                    f"{', '.join(modules)}. MMFS is attached to {self.ATTENDED} in a model of type "
                    f"{model.config.model_type}: this version of transformers builds it differently."
                )

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Refuse settings that would be computed wrongly.

        Args:
            settings: the configuration of transformers as a dict.
            where: whose they are, for the message.

        Raises:
            ValueError: there are such settings.
        """

    @property
    def embedding_scale(self) -> float:
        """What the rows of the embedding table are multiplied by on their way into the decoder."""
        return 1.0

    def masks(self, mask: Tensor) -> Tensor | dict[str, Tensor]:
        """The mask in the form that the host takes. A layer with a sliding window of n attends to the nearest n of the
        tokens that the mask allows: neither other documents of the row nor gaps in it take up places of the window.

        Args:
            mask: [B, 1, T, K] bool, True where a token attends.

        Returns:
            One of that shape for all layers, or one for each type of layer.
        """
        window = getattr(self.model.config, "sliding_window", None)
        if window is None:
            return mask
        # A traced length is only an example: the graph needs the window even if the example fits into it.
        if torch.compiler.is_exporting() or window < mask.shape[-1]:
            nearness = mask.flip(-1).long().cumsum(-1).flip(-1)  # 1: the token itself
            windowed = mask & (nearness <= window)
        else:
            windowed = mask
        if getattr(self.model.config, "layer_types", None) is None:
            return windowed
        return {"full_attention": mask, "sliding_attention": windowed}
