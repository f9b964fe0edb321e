"""RT-DETRv2."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import RTDetrV2MultiscaleDeformableAttention

from mmfs.functional import Backend, ms_deform_attn
from mmfs.transformers_models.core_v2 import check_method
from mmfs.transformers_models.projections import offsets_and_weights, projected_value


class RTDetrV2Attention(RTDetrV2MultiscaleDeformableAttention):  # type: ignore[misc]
    """Cross-attention of a decoder layer; its attributes are those of the attention that it stands for."""

    backend: Backend | None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        spatial_shapes_list: list[tuple[int, int]] | None = None,
        level_start_index: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden_states, position_embeddings: [B, Q, C], of which the sum is the query.
            attention_mask: [B, S], False where a pixel is padding.
            encoder_hidden_states: [B, S, C].
            reference_points: [B, Q, 1, 4], boxes (x, y of the centre, w, h) in [0, 1].
            spatial_shapes_list: (h, w) of the L levels, ints.
            encoder_attention_mask, spatial_shapes, level_start_index, kwargs: unused.

        Returns:
            [B, Q, C], and the weights of the samples [B, Q, H, L*P].

        Raises:
            ValueError: reference points that are not boxes, or shapes as in `ms_deform_attn`.
        """
        assert encoder_hidden_states is not None
        assert reference_points is not None
        assert spatial_shapes_list is not None
        check_method(self.method)
        if reference_points.shape[-1] != 4:
            raise ValueError(
                f"reference_points has shape {list(reference_points.shape)}. Expected boxes [B, Q, 1, 4], which "
                "RT-DETRv2's decoder gives."
            )
        query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        value = projected_value(self, encoder_hidden_states, None if attention_mask is None else ~attention_mask)
        offsets, weights = offsets_and_weights(self, query)
        centres, sizes = reference_points[:, :, None].split(2, dim=-1)  # [B, Q, 1, 1, 2] each
        scale = self.n_points_scale.to(query.dtype)[:, None] * self.offset_scale  # [L*P, 1]
        out = ms_deform_attn(
            value,
            spatial_shapes_list,
            centres + offsets * scale * sizes,
            weights,
            num_points=self.n_points_list,
            backend=self.backend,
        )
        return self.output_proj(out), weights
