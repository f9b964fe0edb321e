"""What the two ops take and what their gradients are, each as one structure: a new argument is one more field here.

`functional.py` fills and checks them, the backends take them whole, and torch.library's operators (`autograd.py`) take
their fields one by one, in this order. Letters as in functional.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, get_type_hints

import torch
from torch import Tensor


class MSDeformAttnArguments(NamedTuple):
    """Of `mmfs.ms_deform_attn`, where they are explained."""

    value: Tensor  # [B, S, H, D]
    spatial_shapes: Sequence[int]  # h, w, h, w, ... of the levels
    sampling_locations: Tensor  # [B, Q, H, L, P, 2]
    attention_weights: Tensor  # [B, Q, H, L, P]


class MSDeformAttnGradients(NamedTuple):
    """Of the loss with respect to the arguments of these names; value has no elements where it was not asked for."""

    value: Tensor
    sampling_locations: Tensor
    attention_weights: Tensor


class MMFSAttentionArguments(NamedTuple):
    """Of `mmfs.mmfs_attention`, where they are explained."""

    value: Tensor  # [N, S, H, D], or [total pixels, H, D] with image_shapes
    spatial_shapes: Sequence[int]  # h, w, h, w, ... of the levels; empty with image_shapes
    reference_points: Tensor  # [B, Q, 2]; with image_indices [B, Q, K, L or 1, P or 1, 2]
    sampling_offsets: Tensor  # [B, Q, H, P, 2]; with image_indices [B, Q, H, L or 1, P, 2]
    attention_logits: Tensor  # [B, Q, H, L, P]
    visible: Tensor | None = None  # int [B, Q, 2]; None with image_indices
    offset_table: Tensor | None = None  # [A, H, P, 2]; with image_indices [A, H, L or 1, P, 2], L as in the offsets
    logit_table: Tensor | None = None  # [A, H, L, P]
    null_logit: float | None = 0.0
    null_value: Tensor | None = None  # [H, D]
    image_shapes: Tensor | None = None  # int [N, L, 2], sizes of the levels of each image
    image_indices: Tensor | None = None  # int [B, Q, K], -1 for no image

    @property
    def sizes(self) -> Sequence[int] | Tensor:
        """h, w, h, w, ... of the levels that all images have, or the sizes of each image, [N, L, 2]."""
        return self.spatial_shapes if self.image_shapes is None else self.image_shapes

    @property
    def ranges(self) -> Tensor:
        """visible, of a call that has it.

        Raises:
            ValueError: it has image_indices.
        """
        if self.visible is None:
            raise ValueError("the call has image_indices. Expected visible, a range of images for each query.")
        return self.visible

    @property
    def points_by_slot(self) -> Tensor:
        """reference_points as [B, Q, K or 1, L or 1, P or 1, 2], whichever the form."""
        points = self.reference_points
        return points if self.image_indices is not None else points[:, :, None, None, None]

    @property
    def offsets_by_level(self) -> Tensor:
        """sampling_offsets as [B, Q, H, L or 1, P, 2], whichever the form."""
        offsets = self.sampling_offsets
        return offsets if self.image_indices is not None else offsets[:, :, :, None]

    @property
    def offset_table_by_level(self) -> Tensor | None:
        """offset_table as [A, H, L or 1, P, 2], whichever the form."""
        table = self.offset_table
        return table if table is None or self.image_indices is not None else table[:, :, None]


class MMFSAttentionGradients(NamedTuple):
    """Of the loss with respect to the arguments of these names; without elements where there is no such argument.

    value has no elements where it was not asked for.
    """

    value: Tensor
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor
    offset_table: Tensor
    logit_table: Tensor
    null_value: Tensor


SCHEMA_TYPES: Final = {Tensor: "Tensor", Sequence[int]: "SymInt[]", Tensor | None: "Tensor?", float | None: "float?"}


def schema(arguments: type[MSDeformAttnArguments] | type[MMFSAttentionArguments]) -> str:
    """The fields as parameters of an operator, in torch.library's language."""
    # A program that was exported before there were image_indices leaves them out.
    return ", ".join(
        f"{SCHEMA_TYPES[kind]} {name}{'=None' * (name == 'image_indices')}"
        for name, kind in get_type_hints(arguments).items()
    )


def contiguous_and_aligned(tensor: Tensor) -> Tensor:
    """As kernels read a tensor: contiguous, and at an address that is a multiple of its elements' size.

    A tensor over somebody else's memory (`torch.frombuffer`, NumPy, DLPack) may begin anywhere.
    """
    if tensor.is_contiguous() and tensor.data_ptr() % tensor.element_size() == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
