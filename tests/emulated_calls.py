"""Both ops through mmfs.kernels.calls, forward and backward, and how their results are judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfs.kernels import calls
from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference
from numerics import assert_within_error_budget
from op_cases import Case, arguments_of


def weighting_of(out: Tensor) -> Tensor:
    """As in Case.run."""
    return torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)


def run_ms_deform_attn(
    device: Any, case: Case, dtype: torch.dtype, *, deterministic: bool = False
) -> dict[str, Tensor]:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    arguments = arguments_of(**tensors, **case.rest)
    out = calls.ms_deform_attn_forward(device, arguments)
    gradients = calls.ms_deform_attn_backward(
        device, weighting_of(out), arguments, needs_value=True, deterministic=deterministic
    )
    return {"output": out, **gradients._asdict()}


def run_mmfs_attention(
    device: Any, case: Case, dtype: torch.dtype, *, deterministic: bool = False, keep_lse: bool = False
) -> dict[str, Tensor]:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    arguments = arguments_of(**tensors, **case.rest)
    out, lse = calls.mmfs_attention_forward(device, arguments)
    gradients = calls.mmfs_attention_backward(
        device,
        weighting_of(out),
        arguments,
        needs_value=True,
        lse=lse if keep_lse else None,
        deterministic=deterministic,
    )
    return {"output": out, **{name: grad for name, grad in gradients._asdict().items() if name in case.tensors}}


def ms_deform_attn_specification(**named: Any) -> Tensor:
    return ms_deform_attn_reference(arguments_of(**named))


def mmfs_attention_specification(**named: Any) -> Tensor:
    return mmfs_attention_reference(arguments_of(**named))


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
