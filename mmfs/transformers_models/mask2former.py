"""Mask2Former."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
)

from mmfs.functional import Backend
from mmfs.transformers_models import pixel_decoder


class Mask2FormerAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):  # type: ignore[misc]
    """Self-attention of the pixel decoder; its attributes are those of the attention that it stands for."""

    backend: Backend | None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: Any = None,
        level_start_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """See `pixel_decoder.attend`; what it does not take is unused."""
        return pixel_decoder.attend(
            self,
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            position_embeddings,
            reference_points,
            spatial_shapes_list,
        )
