"""Every backend errs at most twice as much as plain PyTorch in the same type: every type, and where the op is ugly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from emulated_calls import assert_agrees, weighting_of
from mmfs import compiled, embedding_bag
from mmfs.kernels import calls
from op_cases import Case, arguments_of, mmfs_attention_case, ms_deform_attn_case

# The two half types differ in their conversions alone.
DTYPES = [torch.float64, torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16]


@pytest.fixture(params=["embedding_bag", "compiled", "cuda"])
def backend(request: pytest.FixtureRequest) -> ModuleType | SimpleNamespace:
    """The four functions; those of CUDA are emulated."""
    if request.param == "embedding_bag":
        return embedding_bag
    if request.param == "compiled":
        if reason := compiled.why_not():
            pytest.skip(reason)
        return compiled
    device = request.getfixturevalue("device")
    on_device = {
        name: functools.partial(getattr(calls, name), device)
        for name in ("ms_deform_attn_forward", "ms_deform_attn_backward", "mmfs_attention_backward")
    }
    return SimpleNamespace(
        **on_device, mmfs_attention_forward=lambda *arguments: calls.mmfs_attention_forward(device, *arguments)[0]
    )


def strided(case: Case) -> Case:
    """The same numbers, the last dimension outermost in memory."""
    return Case({name: part.mT.contiguous().mT for name, part in case.tensors.items()}, case.rest)


def on_cell_edges(case: Case) -> Case:
    """Locations on centres and edges of the pixels of a 4 x 8 level, on its border, and one pixel outside."""
    locations = case.tensors["sampling_locations"]
    columns = torch.tensor([-1.0, -0.5, 0.0, 0.5, 3.0, 6.5, 7.0, 7.5, 8.0], dtype=torch.float64)
    rows = torch.tensor([-1.0, 0.0, 1.5, 3.0, 4.0], dtype=torch.float64)
    locations[..., 0] = ((columns + 0.5) / 8)[None, :, None, None, None]
    locations[..., 1] = ((rows + 0.5) / 4)[None, None, None, None]
    return case


def not_finite(case: Case, name: str) -> Case:
    for index, bad in enumerate((torch.nan, torch.inf, -torch.inf, 6e4)):
        case.tensors[name][:, index, 0, ..., 0, index % 2] = bad
    return case


def blind(case: Case) -> Case:
    """No query sees an image."""
    case.rest["visible"][..., 1] = case.rest["visible"][..., 0]
    return case


def without_images(case: Case) -> Case:
    case.tensors["value"] = case.tensors["value"][:0]
    return blind(case)


CASES: dict[str, Callable[[], Case]] = {
    "ms_deform_attn": lambda: ms_deform_attn_case(dim=8),
    "ms_deform_attn-strided": lambda: strided(ms_deform_attn_case(dim=8)),
    "ms_deform_attn-cell-edges": lambda: on_cell_edges(
        ms_deform_attn_case(((4, 8),), dim=8, num_queries=9, num_points=5)
    ),
    "ms_deform_attn-not-finite": lambda: not_finite(ms_deform_attn_case(dim=8), "sampling_locations"),
    "ms_deform_attn-one-pixel-and-one-row": lambda: ms_deform_attn_case(((1, 1), (1, 5)), dim=8),
    "ms_deform_attn-no-batch": lambda: ms_deform_attn_case(dim=8, batch=0),
    "ms_deform_attn-no-queries": lambda: ms_deform_attn_case(dim=8, num_queries=0),
    "ms_deform_attn-no-points": lambda: ms_deform_attn_case(dim=8, num_points=0),
    "mmfs_attention": lambda: mmfs_attention_case(dim=8),
    "mmfs_attention-strided": lambda: strided(mmfs_attention_case(dim=8)),
    "mmfs_attention-plain-softmax": lambda: mmfs_attention_case(dim=8, null_logit=None, null_value=False, tables=False),
    "mmfs_attention-not-finite": lambda: not_finite(mmfs_attention_case(dim=8), "sampling_offsets"),
    "mmfs_attention-no-visible-image": lambda: blind(mmfs_attention_case(dim=8)),
    "mmfs_attention-no-images": lambda: without_images(mmfs_attention_case(dim=8)),
    "mmfs_attention-no-queries": lambda: mmfs_attention_case(dim=8, num_queries=0),
    "mmfs_attention-no-points": lambda: mmfs_attention_case(dim=8, num_points=0),
    "mmfs_attention-no-batch": lambda: mmfs_attention_case(dim=8, batch=0),
}


def run(backend: Any, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    op = "ms_deform_attn" if "sampling_locations" in tensors else "mmfs_attention"
    arguments = arguments_of(**tensors, **case.rest)
    out = getattr(backend, f"{op}_forward")(arguments)
    gradients = getattr(backend, f"{op}_backward")(weighting_of(out), arguments, True)
    return {"output": out, **{name: grad for name, grad in gradients._asdict().items() if name in tensors}}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_within_twice_the_error_of_plain_pytorch(backend: Any, name: str, dtype: torch.dtype) -> None:
    case = CASES[name]()
    assert_agrees(run(backend, case, dtype), case, dtype)
