"""ms_deform_attn whose levels have different numbers of points, beside the function of RT-DETRv2 and D-FINE."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.d_fine.modeling_d_fine import multi_scale_deformable_attention_v2

import mmfs
from mmfs import ms_deform_attn
from op_cases import Case, ms_deform_attn_case

SIZES = ((4, 7), (3, 2), (2, 5))


def case_of(num_points: list[int]) -> Case:
    case = ms_deform_attn_case(SIZES, num_points=sum(num_points))
    for name in ("sampling_locations", "attention_weights"):
        case.tensors[name] = case.tensors[name][:, :, :, 0]
    case.rest["num_points"] = num_points
    return case


def by_transformers(
    value: Tensor, spatial_shapes: Any, sampling_locations: Tensor, attention_weights: Tensor, num_points: list[int]
) -> Tensor:
    out: Tensor = multi_scale_deformable_attention_v2(
        value, spatial_shapes, sampling_locations, attention_weights, num_points
    )
    return out


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("num_points", [[3, 6, 3], [4, 4, 4], [1, 0, 5]], ids=str)
def test_equals_the_function_of_transformers(num_points: list[int], backend: Any) -> None:
    case = case_of(num_points)
    found, expected = case.run(ms_deform_attn, backend=backend), case.run(by_transformers)
    assert expected["sampling_locations"].abs().max() > 0
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


def test_explain_takes_them() -> None:
    case = case_of([3, 6, 3])
    words = mmfs.explain(ms_deform_attn, **{n: t.float() for n, t in case.tensors.items()}, **case.rest)
    assert words.startswith("ms_deform_attn, value [2, 44, 2, 3] torch.float32 on cpu: ")


@pytest.mark.parametrize(
    ("num_points", "error", "sentence"),
    [
        ([3, 6], ValueError, r"num_points is \[3, 6\]. Expected a number of at least 0 for each of the 3 levels"),
        ([3, 10, -1], ValueError, "Expected a number of at least 0 for each of the 3 levels"),
        ([3, 6, 4], ValueError, r"sampling_locations has shape \[2, 5, 2, 12, 2\]. Expected .* with K = 13, the sum"),
        ([3.0, 6.0, 3.0], TypeError, r"num_points is \[3.0, 6.0, 3.0\]. Expected a sequence of ints"),
        (12, TypeError, "num_points is 12. Expected a sequence of ints, one for each level"),
    ],
    ids=str,
)
def test_wrong_numbers_are_a_sentence(num_points: Any, error: type[Exception], sentence: str) -> None:
    case = case_of([3, 6, 3])
    with pytest.raises(error, match=sentence):
        ms_deform_attn(**case.tensors, **case.rest | {"num_points": num_points})


def test_tensors_of_another_form_are_a_sentence() -> None:
    case = case_of([3, 6, 3])
    with pytest.raises(
        ValueError, match=r"attention_weights has shape \[2, 5, 2, 3, 4\]. Expected \[B, Q, H, K\] with"
    ):
        ms_deform_attn(
            **case.tensors | {"attention_weights": case.tensors["attention_weights"].unflatten(3, (3, 4))}, **case.rest
        )
    with pytest.raises(TypeError, match=r"sampling_locations is a NoneType. Expected a tensor"):
        ms_deform_attn(**case.tensors | {"sampling_locations": None}, **case.rest)
