"""Both ops through mmfs.kernels.calls, forward and backward, and how their results are judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfs.kernels import calls
from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference
from numerics import assert_within_error_budget
from op_cases import Case

MS_DEFORM_ATTN = ("output", "value", "sampling_locations", "attention_weights")
MMFS_ATTENTION = (
    "output",
    "value",
    "reference_points",
    "sampling_offsets",
    "attention_logits",
    "offset_table",
    "logit_table",
    "null_value",
)


def weighting_of(out: Tensor) -> Tensor:
    """As in Case.run."""
    return torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)


def run_ms_deform_attn(
    device: Any, case: Case, dtype: torch.dtype, *, deterministic: bool = False
) -> dict[str, Tensor]:
    value, locations, weights = (tensor.to(dtype) for tensor in case.tensors.values())
    sizes = [side for size in case.rest["spatial_shapes"] for side in size]
    out = calls.ms_deform_attn_forward(device, value, sizes, locations, weights)
    gradients = calls.ms_deform_attn_backward(
        device, weighting_of(out), value, sizes, locations, weights, needs_value=True, deterministic=deterministic
    )
    return dict(zip(MS_DEFORM_ATTN, (out, *gradients), strict=True))


def run_mmfs_attention(
    device: Any, case: Case, dtype: torch.dtype, *, deterministic: bool = False, keep_lse: bool = False
) -> dict[str, Tensor]:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    sizes = case.rest["spatial_shapes"]
    arguments = [
        tensors["value"],
        sizes if isinstance(sizes, Tensor) else [side for size in sizes for side in size],
        tensors["reference_points"],
        tensors["sampling_offsets"],
        tensors["attention_logits"],
        case.rest["visible"],
        tensors.get("offset_table"),
        tensors.get("logit_table"),
        case.rest["null_logit"],
        tensors.get("null_value"),
    ]
    out, lse = calls.mmfs_attention_forward(device, *arguments)
    gradients = calls.mmfs_attention_backward(
        device,
        weighting_of(out),
        *arguments,
        needs_value=True,
        lse=lse if keep_lse else None,
        deterministic=deterministic,
    )
    named = dict(zip(MMFS_ATTENTION, (out, *gradients), strict=True))
    return {name: part for name, part in named.items() if name in ("output", *case.tensors)}


def flat_sizes(spatial_shapes: Any) -> Any:
    if isinstance(spatial_shapes, Tensor):
        return spatial_shapes
    return [side for size in spatial_shapes for side in size]


def ms_deform_attn_specification(spatial_shapes: Any, **tensors: Any) -> Tensor:
    return ms_deform_attn_reference(spatial_shapes=flat_sizes(spatial_shapes), **tensors)


def mmfs_attention_specification(spatial_shapes: Any, **rest: Any) -> Tensor:
    return mmfs_attention_reference(spatial_shapes=flat_sizes(spatial_shapes), **rest)


def assert_agrees(actual: dict[str, Tensor], case: Case, dtype: torch.dtype) -> None:
    """Within twice plain PyTorch's own error in this dtype, for inputs that are exactly those of the dtype."""
    specification = (
        ms_deform_attn_specification if "sampling_locations" in case.tensors else mmfs_attention_specification
    )
    rounded = Case({name: tensor.to(dtype).double() for name, tensor in case.tensors.items()}, case.rest)
    exact = rounded.run(specification)
    baseline = case.run(specification, dtype)
    assert actual.keys() == exact.keys()
    for name, tensor in actual.items():
        assert_within_error_budget(
            tensor.nan_to_num(nan=torch.inf),
            baseline=baseline[name],
            exact=exact[name],
            floor=1e-14 if dtype is torch.float64 else 1e-6,
        )
