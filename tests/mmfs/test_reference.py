"""The reference against grid_sample in float64, a loop over queries and images, and finite differences."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from mmfs import mmfs_attention, ms_deform_attn
from mmfs.reference import softmax_with_null
from op_cases import (
    NOT_SQUARE,
    Case,
    image_lists_case,
    largest_difference,
    mmfs_attention_case,
    mmfs_attention_one_by_one,
    ms_deform_attn_by_grid_sample,
    ms_deform_attn_case,
)

ms_deform_attn_reference = partial(ms_deform_attn, backend="reference")
mmfs_attention_reference = partial(mmfs_attention, backend="reference")

MS_DEFORM_ATTN = [
    pytest.param({}, id="not-square-and-outside"),
    pytest.param({"sizes": [(1, 4)]}, id="one-row"),
    pytest.param({"sizes": [(4, 1), (1, 1)]}, id="one-column-and-one-pixel"),
    pytest.param({"low": 1.5, "high": 3.0}, id="all-outside"),
    pytest.param({"low": 0.2, "high": 0.8, "num_heads": 1, "dim": 1, "num_points": 1}, id="ones"),
]


@pytest.mark.parametrize("options", MS_DEFORM_ATTN)
def test_ms_deform_attn_equals_grid_sample(options: dict[str, Any]) -> None:
    case = ms_deform_attn_case(**options)
    differences = largest_difference(case.run(ms_deform_attn_reference), case.run(ms_deform_attn_by_grid_sample))
    assert max(differences.values()) < 1e-13, differences


MMFS = [
    pytest.param({}, id="tables-null-logit-null-value"),
    pytest.param({"null_logit": None}, id="plain-softmax"),
    pytest.param({"null_logit": None, "null_value": False, "tables": False}, id="paper-without-ages"),
    pytest.param({"null_value": False, "null_logit": 0.0}, id="null-goes-nowhere"),
    pytest.param({"null_logit": -2.0, "num_ages": 1}, id="one-row-for-all-ages"),
    pytest.param({"sizes": [(5, 3)], "num_images": 1, "spread": 2.0}, id="one-image-many-outside"),
]


@pytest.mark.parametrize("options", MMFS)
def test_mmfs_attention_equals_a_loop(options: dict[str, Any]) -> None:
    case = mmfs_attention_case(**options)
    differences = largest_difference(case.run(mmfs_attention_reference), case.run(mmfs_attention_one_by_one))
    assert max(differences.values()) < 1e-13, differences


LISTS = [
    pytest.param({}, id="one-point-of-an-image"),
    pytest.param({"points_by_level": True, "num_slots": 6}, id="points-by-level-more-slots-than-ages"),
    pytest.param({"points_by_sample": True, "null_logit": None, "tables": False}, id="points-by-sample"),
    pytest.param({"points_by_level": True, "points_by_sample": True, "offsets_by_level": True}, id="all-differ"),
]


@pytest.mark.parametrize("options", LISTS)
def test_lists_of_images_equal_a_loop(options: dict[str, Any]) -> None:
    case = image_lists_case(**options)
    differences = largest_difference(case.run(mmfs_attention_reference), case.run(mmfs_attention_one_by_one))
    assert max(differences.values()) < 1e-13, differences


def test_an_empty_slot_changes_nothing_but_the_rows_of_those_after_it() -> None:
    case = image_lists_case(tables=False, num_slots=3)
    expected = mmfs_attention_reference(**case.tensors, **case.rest)
    lists, points = case.rest["image_indices"], case.tensors["reference_points"]
    case.rest["image_indices"] = torch.cat([lists[..., :1], torch.full_like(lists[..., :1], -1), lists[..., 1:]], -1)
    case.tensors["reference_points"] = torch.cat([points[:, :, :1], points[:, :, :1] * torch.nan, points[:, :, 1:]], 2)
    assert (mmfs_attention_reference(**case.tensors, **case.rest) - expected).abs().max() < 1e-15


def test_one_image_without_null_is_ms_deform_attn() -> None:
    case = mmfs_attention_case(num_images=2, batch=2, tables=False, null_value=False, null_logit=None)
    own_image = torch.tensor([[0, 1], [1, 2]])[:, None].expand(-1, 5, -1)
    locations = case.tensors["reference_points"][:, :, None, None] + case.tensors["sampling_offsets"]
    expected = ms_deform_attn_by_grid_sample(
        case.tensors["value"],
        NOT_SQUARE,
        locations[:, :, :, None].expand(-1, -1, -1, 2, -1, -1),
        case.tensors["attention_logits"].flatten(3).softmax(-1).view(2, 5, 2, 2, 3),
    )
    case.rest["visible"] = own_image
    assert (mmfs_attention_reference(**case.tensors, **case.rest) - expected).abs().max() < 1e-13


def test_images_of_different_sizes_equal_a_loop_over_images() -> None:
    sizes = torch.tensor([[[4, 7], [3, 2]], [[2, 2], [1, 1]], [[1, 5], [6, 3]]])
    per_image = sizes.prod(-1).sum(-1).tolist()
    case = mmfs_attention_case(num_images=3, tables=False, null_value=False, null_logit=None)
    value = torch.randn(sum(per_image), 2, 3, dtype=torch.float64)
    for image, (own_sizes, own_value) in enumerate(zip(sizes.tolist(), value.split(per_image), strict=True)):
        visible = torch.tensor([image, image + 1]).expand(2, 5, 2)
        others = {name: tensor for name, tensor in case.tensors.items() if name != "value"}
        actual = mmfs_attention_reference(value, sizes, **others, visible=visible, null_logit=None)
        alone = mmfs_attention_reference(
            own_value[None], own_sizes, **others, visible=visible * 0 + torch.tensor([0, 1])
        )
        with_null = mmfs_attention_reference(value, sizes, **others, visible=visible)
        assert (with_null - alone).abs().max() < 1e-14
        own = mmfs_attention_one_by_one(
            own_value[None], own_sizes, **others, visible=torch.tensor([0, 1]).expand(2, 5, 2), null_logit=None
        )
        assert (actual - own).abs().max() < 1e-13


def test_first_and_second_derivatives_of_ms_deform_attn() -> None:
    case = ms_deform_attn_case([(3, 2), (1, 2)], batch=1, num_queries=2, num_heads=1, num_points=2, dim=2)
    leaves = tuple(tensor.requires_grad_() for tensor in case.tensors.values())

    def op(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn_reference(value, [(3, 2), (1, 2)], locations, weights)

    assert torch.autograd.gradcheck(op, leaves)
    assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


def test_first_and_second_derivatives_of_mmfs_attention() -> None:
    case = mmfs_attention_case(
        [(2, 1), (1, 1)], batch=1, num_queries=2, num_heads=1, num_points=2, num_images=3, dim=2, num_ages=2
    )
    case.rest["visible"] = torch.tensor([[[0, 3], [1, 2]]])
    names = list(case.tensors)
    leaves = tuple(tensor.requires_grad_() for tensor in case.tensors.values())

    def op(*tensors: torch.Tensor) -> torch.Tensor:
        return mmfs_attention_reference(**dict(zip(names, tensors, strict=True)), **case.rest)

    assert torch.autograd.gradcheck(op, leaves)
    assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


def test_first_and_second_derivatives_with_lists_of_images() -> None:
    case = image_lists_case(
        [(2, 1), (1, 1)],
        batch=1,
        num_queries=2,
        num_heads=1,
        num_points=2,
        num_images=3,
        dim=2,
        num_ages=2,
        num_slots=2,
        points_by_level=True,
        offsets_by_level=True,
    )
    names = list(case.tensors)
    leaves = tuple(tensor.requires_grad_() for tensor in case.tensors.values())

    def op(*tensors: torch.Tensor) -> torch.Tensor:
        return mmfs_attention_reference(**dict(zip(names, tensors, strict=True)), **case.rest)

    assert torch.autograd.gradcheck(op, leaves)
    assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


def test_softmax_with_null_equals_the_released_slots() -> None:
    """The released code gives each of n images and L levels a slot with the logit -log(n L): together exp(0)."""
    logits = torch.randn(2, 3, 4, 5, 2, 6, dtype=torch.float64)  # [B, Q, H, M, L, P]
    slots = torch.full((2, 3, 4, 10), -math.log(10), dtype=torch.float64)
    expected = torch.cat([logits.flatten(3), slots], dim=-1).softmax(-1)
    weights, null_weight = softmax_with_null(logits, 0.0)
    assert (weights.flatten(3) - expected[..., :-10]).abs().max() < 1e-15
    assert (null_weight - expected[..., -10:].sum(-1)).abs().max() < 1e-15


@pytest.mark.parametrize("null_logit", [0.0, 800.0, -800.0, None])
@pytest.mark.parametrize("shift", [-800.0, 0.0, 800.0])
def test_softmax_with_null_neither_overflows_nor_vanishes(null_logit: float | None, shift: float) -> None:
    logits = torch.randn(1, 1, 2, 3, 1, 4) + shift
    weights, null_weight = softmax_with_null(logits, null_logit)
    assert ((weights.flatten(3).sum(-1) + null_weight) - 1).abs().max() < 1e-6


def test_case_draws_empty_lists_gaps_and_images_twice() -> None:
    lists = image_lists_case().rest["image_indices"].flatten(0, 1)
    assert (lists == -1).all(1).any()
    gaps = (lists[:, :-1] == -1) & (lists[:, 1:] >= 0)
    assert gaps.any()
    assert any(row[0] == row[1] != -1 for row in lists.tolist())


def test_case_draws_empty_and_long_ranges() -> None:
    counts = mmfs_attention_case().rest["visible"].diff(dim=-1)
    assert counts.min() == 0
    assert counts.max() > 4, "no range is longer than the age tables"


def test_a_case_reports_gradients_of_unused_tensors_as_zero() -> None:
    case = Case({"used": torch.ones(2), "unused": torch.ones(3)}, {})
    gradients = case.run(lambda used, unused: used * 2)
    assert gradients["used"].abs().sum() > 0
    assert gradients["unused"].tolist() == [0, 0, 0]
