"""The implementation that the operators run, against the reference: outputs and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmfs import compiled, embedding_bag, mmfs_attention, ms_deform_attn
from numerics import assert_equal_up_to_rounding, assert_within_error_budget
from op_cases import Case, largest_difference, mmfs_attention_case, ms_deform_attn_case, strided

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

MS_DEFORM_ATTN = [
    pytest.param({}, id="not-square-and-outside"),
    pytest.param({"sizes": [(1, 4)]}, id="one-row"),
    pytest.param({"sizes": [(4, 1), (1, 1)]}, id="one-column-and-one-pixel"),
    pytest.param({"low": 1.5, "high": 3.0}, id="all-outside"),
    pytest.param({"num_heads": 5, "dim": 30, "num_points": 7}, id="odd-numbers"),
    pytest.param({"num_queries": 0}, id="no-queries"),
    pytest.param({"batch": 0}, id="no-batch"),
]

MMFS = [
    pytest.param({}, id="tables-null-logit-null-value"),
    pytest.param({"null_logit": None}, id="plain-softmax"),
    pytest.param({"null_logit": None, "null_value": False, "tables": False}, id="paper-without-ages"),
    pytest.param({"null_value": False, "null_logit": 0.0}, id="null-goes-nowhere"),
    pytest.param({"num_ages": 1}, id="one-row-for-all-ages"),
    pytest.param({"sizes": [(5, 3)], "num_images": 1, "spread": 2.0}, id="one-image-many-outside"),
    pytest.param({"num_images": 0}, id="no-images"),
    pytest.param({"num_images": 0, "null_value": False, "null_logit": None}, id="no-images-and-no-null"),
    pytest.param({"num_queries": 0}, id="no-queries"),
    pytest.param({"batch": 0}, id="no-batch"),
]


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators compute with this module, also where a compiled kernel would take over."""
    monkeypatch.setattr(compiled, "why_not", lambda value: "embedding_bag is tested")


def on(case: Case, device: str) -> Case:
    rest = {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in case.rest.items()}
    return Case({name: tensor.to(device) for name, tensor in case.tensors.items()}, rest)


def assert_equals_reference(op: Any, case: Case) -> None:
    differences = largest_difference(case.run(op), case.run(op, backend="reference"))
    assert max(differences.values()) < 1e-13, differences


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", MS_DEFORM_ATTN)
def test_ms_deform_attn_equals_reference(options: dict[str, Any], device: str) -> None:
    assert_equals_reference(ms_deform_attn, on(ms_deform_attn_case(**options), device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", MMFS)
def test_mmfs_attention_equals_reference(options: dict[str, Any], device: str) -> None:
    assert_equals_reference(mmfs_attention, on(mmfs_attention_case(**options), device))


@pytest.mark.parametrize("corners", [1, 100])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, corners: int) -> None:
    monkeypatch.setattr(embedding_bag, "CHUNK_CORNERS", corners)
    assert len(list(embedding_bag.chunks_of(10, 24))) == {1: 10, 100: 3}[corners]
    assert_equals_reference(ms_deform_attn, ms_deform_attn_case())
    assert_equals_reference(mmfs_attention, mmfs_attention_case())


def test_images_of_different_sizes() -> None:
    case = mmfs_attention_case(num_images=3)
    sizes = torch.tensor([[[4, 7], [3, 2]], [[2, 2], [1, 1]], [[1, 5], [6, 3]]])
    case.tensors["value"] = torch.randn(int(sizes.prod(-1).sum()), 2, 3, dtype=torch.float64)
    case.rest["spatial_shapes"] = sizes
    assert_equals_reference(mmfs_attention, case)


@pytest.mark.parametrize("op", [ms_deform_attn, mmfs_attention])
def test_strided_inputs(op: Any) -> None:
    case = ms_deform_attn_case() if op is ms_deform_attn else mmfs_attention_case()
    case.tensors = {name: strided(tensor) for name, tensor in case.tensors.items()}
    assert not any(tensor.is_contiguous() for tensor in case.tensors.values())
    plain = Case({name: tensor.contiguous() for name, tensor in case.tensors.items()}, case.rest)
    actual = op(**case.tensors, **case.rest)
    assert_equal_up_to_rounding(actual, op(**plain.tensors, **plain.rest))
    leaves = [tensor.requires_grad_() for tensor in case.tensors.values()]
    gradients = torch.autograd.grad(op(**case.tensors, **case.rest).sin().sum(), leaves)
    leaves = [tensor.requires_grad_() for tensor in plain.tensors.values()]
    expected = torch.autograd.grad(op(**plain.tensors, **plain.rest).sin().sum(), leaves)
    for gradient, plain_gradient in zip(gradients, expected, strict=True):
        assert_equal_up_to_rounding(gradient, plain_gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_err_no_more_than_plain_pytorch(dtype: torch.dtype) -> None:
    """value in a half type, everything else in float32; the baseline gathers, multiplies and adds in the half type."""
    case = ms_deform_attn_case([(9, 14), (5, 6)], num_queries=40, dim=8, num_points=4)
    value = case.tensors["value"].to(dtype)
    others = {name: tensor.float() for name, tensor in case.tensors.items() if name != "value"}
    exact = Case({"value": value.double(), **{name: t.double() for name, t in others.items()}}, case.rest)
    exact_results = exact.run(ms_deform_attn, backend="reference")

    leaves = {name: tensor.requires_grad_() for name, tensor in {"value": value, **others}.items()}
    out = ms_deform_attn(**leaves, **case.rest)
    assert out.dtype == dtype
    weighting = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), weighting)
    baseline = plain_pytorch_in_half(leaves, case.rest["spatial_shapes"])
    baseline_gradients = torch.autograd.grad(baseline, list(leaves.values()), weighting)
    assert_within_error_budget(out, baseline=baseline, exact=exact_results["output"])
    for name, gradient, plain in zip(leaves, gradients, baseline_gradients, strict=True):
        assert_within_error_budget(gradient, baseline=plain, exact=exact_results[name])
    assert gradients[1].dtype == torch.float32, "locations are float32, and so is their gradient"


def plain_pytorch_in_half(leaves: dict[str, torch.Tensor], sizes: list[tuple[int, int]]) -> torch.Tensor:
    """What PyTorch makes of the same sum when each level's samples are half numbers."""
    value, locations, weights = leaves.values()
    batch, _, num_heads, dim = value.shape
    num_queries, num_points = locations.shape[1], locations.shape[4]
    out = value.new_zeros(batch, num_queries, num_heads, dim)
    planes = value.split([h * w for h, w in sizes], dim=1)
    for level, ((h, w), plane) in enumerate(zip(sizes, planes, strict=True)):
        image = plane.permute(0, 2, 3, 1).reshape(batch * num_heads, dim, h, w).float()
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples = torch.nn.functional.grid_sample(image, grid, align_corners=False).to(value.dtype)
        samples = samples.view(batch, num_heads, dim, num_queries, num_points)
        out = out + torch.einsum("bhdqp,bqhp->bqhd", samples, weights[:, :, :, level].to(value.dtype))
    return out.flatten(2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_that_meet_in_one_pixel_are_added_in_float32(dtype: torch.dtype) -> None:
    """4000 queries read the same pixel: a sum in bfloat16 would stop growing at 256."""
    value = torch.zeros(1, 1, 1, 1, dtype=dtype, requires_grad=True)
    locations = torch.full((1, 4000, 1, 1, 1, 2), 0.5)
    ms_deform_attn(value, [(1, 1)], locations, torch.ones(1, 4000, 1, 1, 1)).sum().backward()
    assert value.grad is not None
    assert abs(value.grad.item() - 4000) <= 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mmfs_attention_in_half_types_is_the_float32_result_rounded(dtype: torch.dtype) -> None:
    case = mmfs_attention_case(dim=8)
    value = case.tensors.pop("value").to(dtype)
    others = {name: tensor.float() for name, tensor in case.tensors.items()}
    out = mmfs_attention(value, **others, **case.rest)
    assert out.dtype == dtype
    single = mmfs_attention(value.float(), **others, **case.rest)
    assert_within_error_budget(out, baseline=single.to(dtype), exact=single.double())


BACKENDS = [None, "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_a_location_that_is_not_finite_samples_zero_and_has_no_gradient(bad: float, backend: str | None) -> None:
    case = ms_deform_attn_case(low=0.1, high=0.9)
    locations = case.tensors["sampling_locations"].float()
    locations[0, 1, 0, 1, 2, 0] = bad
    locations[1, 3, 1, 0, 0] = bad
    bad_samples = ~(locations.abs() < 1e30).all(-1)
    assert bad_samples.sum() == 2
    leaves = [case.tensors["value"].float(), locations, case.tensors["attention_weights"].float()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = ms_deform_attn(leaves[0], case.rest["spatial_shapes"], *leaves[1:], backend=backend)
    grad_value, grad_locations, grad_weights = torch.autograd.grad(out.sin().sum(), leaves)
    silent = leaves[2].masked_fill(bad_samples, 0.0)
    inside = locations.detach().masked_fill(bad_samples[..., None], 0.5)
    without = ms_deform_attn(leaves[0], case.rest["spatial_shapes"], inside, silent, backend=backend)
    assert_equal_up_to_rounding(out, without)
    assert_equal_up_to_rounding(grad_value, torch.autograd.grad(without.sin().sum(), leaves[0])[0])
    assert (grad_locations[bad_samples] == 0).all()
    assert (grad_weights[bad_samples] == 0).all()
    assert (grad_locations[~bad_samples] != 0).all()
    assert grad_locations.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_offset_that_is_not_finite_takes_its_share_and_samples_zero(bad: float, backend: str | None) -> None:
    case = mmfs_attention_case(spread=0.05)
    case.tensors["sampling_offsets"][0, 2, 1, 0] = bad
    far = Case({name: tensor.clone() for name, tensor in case.tensors.items()}, case.rest)
    far.tensors["sampling_offsets"][0, 2, 1, 0] = 50.0
    actual, expected = case.run(mmfs_attention, backend=backend), far.run(mmfs_attention, backend=backend)
    for name, tensor in actual.items():
        assert_equal_up_to_rounding(tensor, expected[name])
    assert (actual["sampling_offsets"][0, 2, 1, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_pixel_that_no_sample_touches_has_no_effect(bad: float, backend: str | None) -> None:
    """Pixels 0 and 5 of a level of 2 x 3: what a clamped or masked index would read."""
    clean = torch.randn(2, 6, 1, 2, dtype=torch.float64)
    dirty = clean.clone()
    dirty[:, 0] = bad
    dirty[1] = bad
    locations = torch.tensor([[5.0, 0.5], [-0.1, 0.95], [torch.nan, 0.5], [0.9, 0.9]], dtype=torch.float64)
    case = Case(
        {
            "value": clean,
            "reference_points": torch.zeros(1, 1, 2, dtype=torch.float64),
            "sampling_offsets": locations.view(1, 1, 1, 4, 2),
            "attention_logits": torch.randn(1, 1, 1, 1, 4, dtype=torch.float64),
        },
        {"spatial_shapes": [(2, 3)], "visible": torch.tensor([[[0, 1]]])},
    )
    expected = case.run(mmfs_attention, backend="reference")
    assert expected["value"].flatten().nonzero().numel() > 0
    case.tensors["value"] = dirty
    actual = case.run(mmfs_attention, backend=backend)
    differences = largest_difference(actual, expected)
    assert max(differences.values()) < 1e-14, differences


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_without_images_gets_exactly_null_value(backend: str | None) -> None:
    case = mmfs_attention_case()
    empty = case.rest["visible"].diff(dim=-1)[..., 0] == 0
    for null_logit in (0.3, None):
        case.rest["null_logit"] = null_logit
        out = mmfs_attention(**case.tensors, **case.rest, backend=backend)
        assert (out[empty] == case.tensors["null_value"].flatten()).all()
        without = {name: tensor for name, tensor in case.tensors.items() if name != "null_value"}
        out = mmfs_attention(**without, **case.rest, backend=backend)
        assert (out[empty] == 0).all()
        assert (out[~empty] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reversed_range_is_empty_wherever_it_points(backend: str | None) -> None:
    case = mmfs_attention_case()
    case.rest["visible"] = torch.tensor([3, -100]).expand(2, 5, 2)
    out = mmfs_attention(**case.tensors, **case.rest, backend=backend)
    assert (out == case.tensors["null_value"].flatten()).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_outside_the_range_have_no_effect(backend: str | None) -> None:
    case = mmfs_attention_case()
    case.rest["visible"] = torch.tensor([2, 4]).expand(2, 5, 2)
    before = case.run(mmfs_attention, backend=backend)
    case.tensors["value"][[0, 1, 4, 5]] = torch.nan
    after = case.run(mmfs_attention, backend=backend)
    for name, tensor in after.items():
        assert_equal_up_to_rounding(tensor, before[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_cell_edges(backend: str | None) -> None:
    """On a pixel centre the sample is the pixel; on the border of the level it is half a pixel; one pixel out, zero."""
    value = torch.arange(1.0, 13.0, dtype=torch.float64).view(1, 12, 1, 1)  # 3 x 4
    centres = torch.stack(
        torch.meshgrid((torch.arange(4.0) + 0.5) / 4, (torch.arange(3.0) + 0.5) / 3, indexing="xy"), dim=-1
    )

    def sample(locations: torch.Tensor) -> torch.Tensor:
        locations = locations.double().view(1, -1, 1, 1, 1, 2)
        weights = torch.ones(1, locations.shape[1], 1, 1, 1, dtype=torch.float64)
        return ms_deform_attn(value, [(3, 4)], locations, weights, backend=backend).flatten()

    assert (sample(centres) - value.flatten()).abs().max() < 1e-6
    assert sample(torch.tensor([0.0, 0.5])).item() == pytest.approx(5 / 2)
    assert sample(torch.tensor([1.0, 0.5])).item() == pytest.approx(8 / 2)
    assert sample(torch.tensor([0.0, 0.0])).item() == pytest.approx(1 / 4)
    assert sample(torch.tensor([-1 / 8, 0.5])).item() == 0
    assert sample(torch.tensor([9 / 8, 0.5])).item() == 0


def test_the_gradient_of_a_frozen_value_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the gradient of value was computed")

    monkeypatch.setattr(embedding_bag, "table_gradient", refuse)
    for op, case in ((ms_deform_attn, ms_deform_attn_case()), (mmfs_attention, mmfs_attention_case())):
        value = case.tensors.pop("value")
        leaves = {name: tensor.requires_grad_() for name, tensor in case.tensors.items()}
        op(value=value, **leaves, **case.rest).sum().backward()
        assert all(leaf.grad is not None for leaf in leaves.values())
        with pytest.raises(AssertionError, match="was computed"):
            op(value=value.requires_grad_(), **leaves, **case.rest).sum().backward()


def test_finite_differences_of_the_operators() -> None:
    case = ms_deform_attn_case([(3, 2), (1, 2)], batch=1, num_queries=3, num_points=2, dim=2)
    leaves = tuple(tensor.requires_grad_() for tensor in case.tensors.values())
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, [(3, 2), (1, 2)], x, w), leaves, fast_mode=True)
    case = mmfs_attention_case([(3, 2), (1, 2)], batch=1, num_queries=4, num_points=2, num_images=3, dim=2, num_ages=2)
    names = list(case.tensors)
    leaves = tuple(tensor.requires_grad_() for tensor in case.tensors.values())
    assert torch.autograd.gradcheck(
        lambda *tensors: mmfs_attention(**dict(zip(names, tensors, strict=True)), **case.rest), leaves, fast_mode=True
    )
