"""The sampling of RT-DETRv2's successors, whose number of points differs by level: D-FINE and DEIMv2.

Each of their attentions keeps the function that samples as an attribute, `ms_deformable_attn_core`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from mmfs.functional import Backend, ms_deform_attn


class MultiScaleDeformableAttentionV2(nn.Module):
    """`ms_deform_attn` with the arguments of transformers' `multi_scale_deformable_attention_v2`; no parameters."""

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__()
        self.backend = backend

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Sequence[tuple[int, int]],
        sampling_locations: Tensor,
        attention_weights: Tensor,
        num_points_list: list[int],
        method: str = "default",
    ) -> Tensor:
        """
        Args:
            value: [B, S, H, D].
            value_spatial_shapes: (h, w) of the L levels, ints.
            sampling_locations: [B, Q, H, K, 2], (x, y) in [0, 1], level after level.
            attention_weights: [B, Q, H, K].
            num_points_list: of each level; their sum is K.
            method: "default", bilinear sampling.

        Returns:
            [B, Q, H*D].

        Raises:
            ValueError: another method, or shapes as in `ms_deform_attn`.
        """
        check_method(method)
        return ms_deform_attn(
            with_channels_first_gradient(value) if value.requires_grad else value,
            value_spatial_shapes,
            sampling_locations,
            attention_weights,
            num_points=num_points_list,
            backend=self.backend,
        )


def with_channels_first_gradient(value: Tensor) -> Tensor:
    """The value itself, [B, S, H, D], whose gradient will be laid out as [B, H, D, S]."""
    result: Tensor = _ChannelsFirstGradient.apply(value)  # type: ignore[no-untyped-call]
    return result


class _ChannelsFirstGradient(Function):
    """The identity; the gradient [B, S, H, D] is laid out as [B, H, D, S], as that of transformers' function is.

    The value is the image encoder's output itself, often a batch norm's. Given the gradient of one image that lies in
    memory as a part of an [S, H*D] matrix, PyTorch's batch norm on a CPU returns wrong gradients (seen in 2.13; the
    stride of a batch of one does not tell channels-last from contiguous).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.movedim(1, -1).contiguous().movedim(-1, 1)


def check_method(method: str) -> None:
    if method != "default":
        raise ValueError(
            f"decoder_method is {method!r}. Expected 'default', bilinear sampling, which mmfs computes. For the "
            "nearest pixels call mmfs.restore_attention(model)."
        )
