"""What comes before the sampling in every attention of the family: value and softmax of its attention weights.

Letters: B batch, Q queries, S pixels of all levels, C channels of the model, H heads, D channels of a head, K samples
of a head, of all levels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def projected_value(attention: Any, features: Tensor, is_padding: Tensor | None) -> Tensor:
    """Features [B, S, C] -> value [B, S, H, D]; zero where is_padding, bool [B, S], is True."""
    flat: Tensor = attention.value_proj(features)
    if is_padding is not None:
        flat = flat.masked_fill(is_padding[..., None], 0.0)
    value: Tensor = flat.unflatten(-1, (attention.n_heads, -1))
    return value


def offsets_and_weights(attention: Any, query: Tensor) -> tuple[Tensor, Tensor]:
    """Query [B, Q, C] -> sampling offsets [B, Q, H, K, 2] as the model learned them, and weights [B, Q, H, K]."""
    offsets: Tensor = attention.sampling_offsets(query)
    logits: Tensor = attention.attention_weights(query)
    return offsets.unflatten(-1, (attention.n_heads, -1, 2)), logits.unflatten(-1, (attention.n_heads, -1)).softmax(-1)
