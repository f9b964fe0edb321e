"""The structures of arguments are what the public functions and the operators take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmfs
from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
    schema,
)


@pytest.mark.parametrize(
    ("op", "structure"), [(mmfs.ms_deform_attn, MSDeformAttnArguments), (mmfs.mmfs_attention, MMFSAttentionArguments)]
)
def test_fields_are_the_parameters_of_the_public_function(op: Callable[..., Any], structure: Any) -> None:
    parameters = inspect.signature(op).parameters
    public = {
        name: parameter.default for name, parameter in parameters.items() if name not in ("backend", "num_points")
    }
    fields = [name for name in structure._fields if name != "image_shapes"]
    assert list(public) == fields
    defaults = {name: default for name, default in structure._field_defaults.items() if name != "image_shapes"}
    assert {name: default for name, default in public.items() if default is not inspect.Parameter.empty} == defaults


def test_the_operators_take_the_fields_in_order() -> None:
    assert schema(MSDeformAttnArguments) == (
        "Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights"
    )
    assert schema(MMFSAttentionArguments) == (
        "Tensor value, SymInt[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets, Tensor "
        "attention_logits, Tensor? visible, Tensor? offset_table, Tensor? logit_table, float? null_logit, Tensor? "
        "null_value, Tensor? image_shapes, Tensor? image_indices=None"
    )
    for name, structure in (("ms_deform_attn", MSDeformAttnArguments), ("mmfs_attention", MMFSAttentionArguments)):
        operator = getattr(torch.ops.mmfs, name).default
        assert tuple(argument.name for argument in operator._schema.arguments) == structure._fields


def test_gradients_are_those_of_the_floating_tensors() -> None:
    floating = [name for name in MMFSAttentionArguments._fields if name not in NOT_DIFFERENTIABLE]
    assert list(MMFSAttentionGradients._fields) == floating
    plain = [name for name in MSDeformAttnArguments._fields if name not in NOT_DIFFERENTIABLE]
    assert list(MSDeformAttnGradients._fields) == plain


NOT_DIFFERENTIABLE = ("spatial_shapes", "visible", "null_logit", "image_shapes", "image_indices")


def test_sizes_are_those_of_all_images_or_of_each() -> None:
    value, points = torch.zeros(2, 6, 1, 1), torch.zeros(1, 1, 2)
    offsets, logits = torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 1)
    visible = torch.zeros(1, 1, 2, dtype=torch.long)
    shared = MMFSAttentionArguments(value, [2, 3], points, offsets, logits, visible)
    assert shared.sizes == [2, 3]
    image_shapes = torch.tensor([[[2, 3]], [[3, 2]]])
    assert shared._replace(spatial_shapes=[], image_shapes=image_shapes).sizes is image_shapes
