"""The self-attention of the pixel decoders of Mask2Former and OneFormer, which order their arguments differently."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmfs.functional import ms_deform_attn
from mmfs.layer import tensor_of
from mmfs.transformers_models.projections import offsets_and_weights, projected_value


def attend(
    attention: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    encoder_hidden_states: Tensor | None,
    position_embeddings: Tensor | None,
    reference_points: Tensor | None,
    spatial_shapes_list: Any,
) -> tuple[Tensor, Tensor]:
    """
    Args:
        attention: with the projections and the backend.
        hidden_states, position_embeddings: [B, Q, C], of which the sum is the query.
        attention_mask: [B, S], True where a pixel is padding.
        encoder_hidden_states: [B, S, C].
        reference_points: [B, Q, L, 2], (x, y) in [0, 1].
        spatial_shapes_list: (h, w) of the L levels, ints.

    Returns:
        [B, Q, C], and the weights of the samples [B, Q, H, L, P].

    Raises:
        ValueError: reference points that are not points, or shapes as in `ms_deform_attn`.
    """
    assert encoder_hidden_states is not None
    assert reference_points is not None
    if reference_points.shape[-1] != 2:
        raise ValueError(
            f"reference_points has shape {list(reference_points.shape)}. Expected points [B, Q, L, 2], which "
            "the pixel decoders give."
        )
    query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
    value = projected_value(attention, encoder_hidden_states, attention_mask)
    offsets, weights = offsets_and_weights(attention, query)
    samples = (attention.n_levels, attention.n_points)
    offsets, weights = offsets.unflatten(3, samples), weights.unflatten(3, samples)
    grid = tensor_of(spatial_shapes_list, query.device).flip(-1)[:, None]  # (w, h): offsets are in pixels
    locations = reference_points[:, :, None, :, None] + offsets / grid
    out = ms_deform_attn(value, spatial_shapes_list, locations, weights, backend=attention.backend)
    return attention.output_proj(out), weights
