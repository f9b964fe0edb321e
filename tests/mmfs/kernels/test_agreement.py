"""Every backend errs at most twice as much as plain PyTorch in the same type: every type, and where the op is ugly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from emulated_calls import (
    assert_agrees,
    mmfs_attention_specification,
    ms_deform_attn_specification,
    run_mmfs_attention,
    weighting_of,
)
from mmfs import compiled, embedding_bag
from mmfs.kernels import calls
from op_cases import Case, arguments_of, image_lists_case, mmfs_attention_case, ms_deform_attn_case

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
    "image-lists": lambda: image_lists_case(dim=8),
    "image-lists-strided": lambda: strided(image_lists_case(dim=8)),
    "image-lists-points-by-level": lambda: image_lists_case(dim=8, points_by_level=True),
    "image-lists-everything-by-level-and-sample": lambda: image_lists_case(
        dim=8, points_by_level=True, points_by_sample=True, offsets_by_level=True
    ),
    "image-lists-points-by-sample-plain-softmax": lambda: image_lists_case(
        dim=8, points_by_sample=True, null_logit=None, null_value=False, tables=False
    ),
    "image-lists-offsets-by-level": lambda: image_lists_case(dim=8, offsets_by_level=True, num_slots=7, num_ages=3),
    "image-lists-not-finite": lambda: not_finite(image_lists_case(dim=8), "sampling_offsets"),
    "image-lists-all-empty": lambda: image_lists_case(dim=8, num_images=0),
    "image-lists-no-queries": lambda: image_lists_case(dim=8, num_queries=0),
    "image-lists-no-points": lambda: image_lists_case(dim=8, num_points=0, points_by_sample=True),
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


LOWEST, HIGHEST = -(2**63), 2**63 - 1
EXTREMES = [LOWEST, LOWEST + 1, -(2**32) + 1, -(2**31), -1, 0, 3, 6, 7, 2**31, 2**32 + 1, HIGHEST]
"""Ends of ranges of images, of a bank of 6: among them every pair whose difference does not fit 64 bits."""


@pytest.mark.parametrize("first", EXTREMES)
def test_ranges_of_any_numbers_are_empty_or_refused(backend: Any, first: int) -> None:
    """A range is empty if it does not end after its first image, wherever it lies; others are in the bank, or refused
    by their name. The CUDA kernels cannot raise: the query gets NaN."""
    case = mmfs_attention_case(batch=1, num_queries=4, dim=8)
    for last in EXTREMES:
        case.rest["visible"] = torch.tensor([[[first, last], [0, 3], [0, 6], [2, 2]]])
        if last <= first:
            assert_agrees(run(backend, case, torch.float64), case, torch.float64)
        elif first >= 0 and last <= 6:
            assert run(backend, case, torch.float64)["output"].isfinite().all()
        elif isinstance(backend, ModuleType):
            with pytest.raises(ValueError, match=rf"visible holds the range \[{first}, {last}\] but the bank has 6"):
                run(backend, case, torch.float64)
        else:
            out = run(backend, case, torch.float64)["output"]
            assert out[0, 0].isnan().all()
            assert out[0, 1:].isfinite().all()


@pytest.mark.parametrize("wrong", [-2, 6, 2**31, 2**32 + 1, HIGHEST, LOWEST])
def test_a_list_with_an_image_beyond_the_bank_is_refused(backend: Any, wrong: int) -> None:
    case = image_lists_case(batch=1, num_queries=4, dim=8)
    case.rest["image_indices"][0, 1, 2] = wrong
    if isinstance(backend, ModuleType):
        with pytest.raises(
            ValueError, match=rf"image_indices holds {wrong} but the bank has 6 images. Expected -1 for"
        ):
            run(backend, case, torch.float64)
    else:
        results = run(backend, case, torch.float64)
        assert results["output"][0, 1].isnan().all()
        assert results["output"][0, [0, 2, 3]].isfinite().all()
        assert results["value"].isfinite().all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_empty_range_far_below_the_bank_gets_no_gradient(device: Any, deterministic: bool) -> None:
    """The distance from its end to an image is 1 in 32 bits: the kernel that owns maps took it for an age."""
    case = mmfs_attention_case(batch=1, num_queries=4, dim=8)
    case.rest["visible"] = torch.tensor([[[0, 1 - 2**32], [0, 3], [0, 6], [2, 2]]])
    actual = run_mmfs_attention(device, case, torch.float32, deterministic=deterministic)
    assert_agrees(actual, case, torch.float32)


@pytest.mark.parametrize("sizes", [[(2**32, 2**32), (4, 7)], [(2**33, 2**31), (4, 7)], [(-4, -7), (2**62, 4)]], ids=str)
def test_sizes_whose_products_overflow_are_refused(backend: Any, sizes: list[tuple[int, int]]) -> None:
    """In 64 bits they add up to the pixels that there are."""
    case = mmfs_attention_case(((4, 7),), num_images=2, dim=8)
    case.tensors["value"] = case.tensors["value"].flatten(0, 1)[:28]
    case.rest["spatial_shapes"] = torch.tensor(sizes)[:, None]
    if isinstance(backend, ModuleType):
        with pytest.raises(ValueError, match="spatial_shapes describe"):
            run(backend, case, torch.float64)
    else:
        out = run(backend, case, torch.float64)["output"]
        assert out[case.rest["visible"].diff(dim=-1).squeeze(-1) > 0].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_sample_that_touches_no_pixel_has_no_effect_whatever_its_weight(backend: Any, bad: float) -> None:
    case = ms_deform_attn_case(dim=8)
    outside = case.tensors["sampling_locations"]
    outside[:, 1, :, 0, 1] = torch.tensor([1.4, 0.5])
    outside[:, 3, :, 1, 0] = torch.tensor([torch.nan, 0.5])
    expected = run(backend, case, torch.float64)
    case.tensors["attention_weights"][:, 1, :, 0, 1] = bad
    case.tensors["attention_weights"][:, 3, :, 1, 0] = bad
    exact = case.run(ms_deform_attn_specification)
    for name, tensor in run(backend, case, torch.float64).items():
        torch.testing.assert_close(tensor, expected[name])
        torch.testing.assert_close(tensor, exact[name])


@pytest.mark.parametrize("null_value", [False, True])
def test_a_softmax_over_nan_is_nan_even_where_every_sample_lies_outside(backend: Any, null_value: bool) -> None:
    """And nothing of the other queries is."""
    case = mmfs_attention_case(dim=8, null_value=null_value)
    case.tensors["sampling_offsets"][:, 3] = 9.0
    case.tensors["attention_logits"][:, 3, 0, 0, 0] = torch.nan
    out = run(backend, case, torch.float64)["output"].unflatten(-1, (2, 8))
    exact = case.run(mmfs_attention_specification)["output"].unflatten(-1, (2, 8))
    sees = case.rest["visible"][:, 3].diff(dim=-1).squeeze(-1) > 0
    assert sees.any()
    assert exact[sees, 3, 0].isnan().all()
    torch.testing.assert_close(out, exact, equal_nan=True)


def test_samples_without_weight_in_a_softmax_over_nan_have_gradients_of_nan(backend: Any) -> None:
    """Their weights are no zeros then: no weight of that softmax is known."""
    case = mmfs_attention_case(dim=8)
    case.tensors["attention_logits"][:, 3, 0, 0, 0] = torch.nan
    case.tensors["attention_logits"][:, 3, 0, :, 1] = -torch.inf
    case.tensors["sampling_offsets"][:, 3] = 0.0
    exact = case.run(mmfs_attention_specification)
    assert exact["sampling_offsets"][:, 3, 0, 1].isnan().any()
    found = run(backend, case, torch.float64)
    for name in ("output", "sampling_offsets", "attention_logits"):
        torch.testing.assert_close(found[name], exact[name], equal_nan=True)
