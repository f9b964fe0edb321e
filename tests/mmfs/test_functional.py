"""Wrong use gets a sentence, before anything is computed; the named backends are what they say."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

import mmfs
from mmfs import compiled, cuda, embedding_bag, functional, mmfs_attention, ms_deform_attn, why_not_cuda
from numerics import assert_equal_up_to_rounding
from op_cases import image_lists_case, mmfs_attention_case, mmfs_attention_one_by_one, ms_deform_attn_case


@pytest.fixture
def nothing_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed on wrong input")

    monkeypatch.setattr(functional.torch.ops.mmfs, "ms_deform_attn", refuse)
    monkeypatch.setattr(functional.torch.ops.mmfs, "mmfs_attention", refuse)
    monkeypatch.setattr(functional.torch.ops.mmfs, "mmfs_attention_with_lse", refuse)
    monkeypatch.setattr(compiled, "output_of", refuse)
    for computes in (compiled, embedding_bag):
        monkeypatch.setattr(computes, "ms_deform_attn_forward", refuse)
        monkeypatch.setattr(computes, "mmfs_attention_forward", refuse)


WRONG_MS_DEFORM_ATTN = [
    ({"value": torch.ones(2, 34, 6)}, ValueError, r"value has shape \[2, 34, 6\]. Expected \[B, S, H, D\]"),
    ({"value": torch.ones(2, 33, 2, 3)}, ValueError, r"\[\(4, 7\), \(3, 2\)\] describe 34 pixels but value holds 33"),
    ({"value": torch.ones(2, 34, 2, 3).long()}, TypeError, r"value is torch.int64. Expected torch.float64"),
    (
        {"value": torch.ones(2, 34, 2, 3).to_sparse()},
        TypeError,
        r"value has the layout torch.sparse_coo. Expected torch.strided: call value.to_dense\(\)",
    ),
    ({"spatial_shapes": [(2**64, 2**64)]}, ValueError, r"describe 3402\d+ pixels but value holds 34"),
    (
        {"value": torch.ones(2, 34, 2, 3).to(torch.float8_e4m3fn)},
        TypeError,
        r"value is torch.float8_e4m3fn. Expected torch.float64, torch.float32, torch.bfloat16 or torch.float16: call",
    ),
    ({"value": None}, TypeError, r"value is a NoneType. Expected a tensor"),
    ({"sampling_locations": None}, TypeError, r"sampling_locations is a NoneType. Expected a tensor"),
    ({"attention_weights": numpy.ones((2, 5, 2, 2, 3))}, TypeError, r"attention_weights is a ndarray. Expected a ten"),
    (
        {"value": torch.ones(2, 34, 2, 3, device="meta")},
        ValueError,
        "is on cpu but value is on meta",
    ),
    ({"spatial_shapes": []}, ValueError, r"spatial_shapes is \[\]. Expected at least one \(h, w\)"),
    ({"spatial_shapes": [(34, 0), (34, 1)]}, ValueError, "sides of at least 1"),
    ({"spatial_shapes": [(4, 7, 1), (3, 2)]}, ValueError, r"Expected at least one \(h, w\)"),
    ({"spatial_shapes": [34]}, ValueError, r"Expected at least one \(h, w\)"),
    ({"spatial_shapes": [(4.5, 7), (3, 2)]}, TypeError, r"spatial_shapes holds 4.5, a float. Expected ints"),
    ({"spatial_shapes": [(4, 7), (3, None)]}, TypeError, r"spatial_shapes holds None, a NoneType. Expected ints"),
    ({"spatial_shapes": [(4, torch.tensor(7.5)), (3, 2)]}, TypeError, r"holds tensor\(7.5000\), a Tensor"),
    ({"spatial_shapes": None}, TypeError, r"spatial_shapes is a NoneType. Expected a sequence of \(h, w\)"),
    ({"spatial_shapes": numpy.array([[4, 7], [3, 2]])}, TypeError, r"spatial_shapes is a ndarray. Expected a sequence"),
    ({"spatial_shapes": torch.ones(2, 3).long()}, ValueError, r"spatial_shapes has shape \[2, 3\]. Expected \[L, 2\]"),
    ({"spatial_shapes": torch.ones(2, 2)}, TypeError, "spatial_shapes is torch.float32. Expected torch.int64"),
    ({"spatial_shapes": [(34, 1)]}, ValueError, r"sampling_locations has shape .* Expected \[2, 5, 2, 1, 3, 2\]"),
    ({"sampling_locations": torch.ones(2, 5, 2, 2, 3)}, ValueError, r"Expected \[B, Q, H, L, P, 2\]"),
    ({"sampling_locations": torch.ones(1, 5, 2, 2, 3, 2)}, ValueError, r"Expected \[2, 5, 2, 2, 3, 2\], \[B, Q, H, L"),
    ({"attention_weights": torch.ones(2, 5, 2, 3, 2)}, ValueError, r"attention_weights has shape .* \[B, Q, H, L, P\]"),
    ({"backend": "triton"}, ValueError, "backend is 'triton'. Expected None, 'reference', 'cpu' or 'cuda'"),
    ({"backend": "cuda"}, ValueError, "backend='cuda' cannot be used: value is on cpu. Leave backend out"),
]

WRONG_MMFS_ATTENTION = [
    ({"value": torch.ones(6, 33, 2, 3)}, ValueError, "describe 34 pixels but value holds 33"),
    ({"value": torch.ones(204, 2, 3)}, ValueError, r"value has shape \[204, 2, 3\]. Expected \[N, S, H, D\]"),
    ({"spatial_shapes": torch.ones(6, 2, 2).long()}, ValueError, r"Expected \[total pixels, H, D\]"),
    ({"spatial_shapes": torch.ones(6, 2, 3).long()}, ValueError, r"spatial_shapes .* \[N, L, 2\]"),
    ({"reference_points": torch.ones(2, 4, 2)}, ValueError, r"broadcasts to \[B, Q, 2\] = \[2, 5, 2\]"),
    ({"reference_points": torch.ones(2, 5, 2, 2)}, ValueError, r"broadcasts to \[B, Q, 2\]"),
    ({"reference_points": torch.ones(2, 5, 1)}, ValueError, r"broadcasts to \[B, Q, 2\]"),
    ({"sampling_offsets": torch.ones(2, 5, 2, 2, 3, 2)}, ValueError, r"sampling_offsets .* Expected \[2, 5, 2, 3, 2\]"),
    ({"attention_logits": torch.ones(2, 5, 2, 6)}, ValueError, r"attention_logits has shape .* \[B, Q, H, L, P\]"),
    ({"attention_logits": torch.ones(2, 5, 3, 2, 3)}, ValueError, r"Expected \[2, 5, 2, 2, 3\], \[B, Q, H, L, P\]"),
    ({"visible": torch.ones(2, 5, 2)}, TypeError, "visible is torch.float32. Expected torch.int64 or torch.int32"),
    ({"visible": torch.ones(2, 5, 6).long()}, ValueError, r"visible has shape .* Expected \[2, 5, 2\]"),
    ({"offset_table": torch.ones(0, 2, 3, 2)}, ValueError, r"offset_table .* with at least one age"),
    ({"offset_table": torch.ones(4, 2, 2, 3, 2)}, ValueError, r"offset_table .* \[A, H, P, 2\]"),
    ({"logit_table": torch.ones(4, 2, 3)}, ValueError, r"logit_table .* \[A, H, L, P\]"),
    (
        {"logit_table": torch.ones(4, 2, 2, 3).long()},
        TypeError,
        "logit_table is torch.int64. Expected torch.float64",
    ),
    ({"value": numpy.ones((6, 34, 2, 3))}, TypeError, r"value is a ndarray. Expected a tensor"),
    ({"reference_points": None}, TypeError, r"reference_points is a NoneType. Expected a tensor"),
    ({"attention_logits": None}, TypeError, r"attention_logits is a NoneType. Expected a tensor"),
    ({"visible": None}, ValueError, "neither of visible and image_indices given. Expected visible"),
    ({"image_indices": torch.zeros(2, 5, 3).long()}, ValueError, "both of visible and image_indices given. Expected"),
    ({"visible": numpy.ones((2, 5, 2), dtype=numpy.int64)}, TypeError, r"visible is a ndarray. Expected a tensor"),
    ({"null_value": numpy.ones((2, 3))}, TypeError, r"null_value is a ndarray. Expected a tensor"),
    ({"null_value": torch.ones(6)}, ValueError, r"null_value has shape \[6\]. Expected \[2, 3\], \[H, D\] of value"),
    ({"null_logit": torch.zeros(())}, TypeError, "null_logit is a Tensor. Expected a number, or None"),
    ({"null_logit": torch.nan}, ValueError, "null_logit is nan, which is no finite torch.float64"),
    ({"null_logit": -torch.inf}, ValueError, "null_logit is -inf, .* Expected a finite number, or None for a softmax"),
    ({"null_logit": 10**400}, ValueError, "null_logit is 1000.*, which is no finite torch.float64"),
    (
        {"spatial_shapes": torch.ones(6, 0, 2).long(), "value": torch.ones(0, 2, 3)},
        ValueError,
        r"spatial_shapes has shape \[6, 0, 2\]. Expected \[N, L, 2\] with at least one level",
    ),
    ({"visible": torch.zeros(2, 5, 2).long().to_sparse()}, TypeError, "visible has the layout torch.sparse_coo"),
    ({"backend": "gpu"}, ValueError, "backend is 'gpu'"),
    ({"backend": "cuda"}, ValueError, "backend='cuda' cannot be used: value is on cpu"),
]


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize(("wrong", "error", "sentence"), WRONG_MS_DEFORM_ATTN)
def test_wrong_arguments_of_ms_deform_attn(wrong: dict[str, Any], error: type[Exception], sentence: str) -> None:
    case = ms_deform_attn_case()
    with pytest.raises(error, match=sentence):
        ms_deform_attn(**(case.tensors | case.rest | wrong))


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize(("wrong", "error", "sentence"), WRONG_MMFS_ATTENTION)
def test_wrong_arguments_of_mmfs_attention(wrong: dict[str, Any], error: type[Exception], sentence: str) -> None:
    case = mmfs_attention_case()
    with pytest.raises(error, match=sentence):
        mmfs_attention(**(case.tensors | case.rest | wrong))


WRONG_IMAGE_LISTS = [
    ({"image_indices": torch.ones(2, 5, 4)}, TypeError, "image_indices is torch.float32. Expected torch.int64 or"),
    (
        {"image_indices": torch.ones(2, 5).long()},
        ValueError,
        r"image_indices has shape \[2, 5\]. Expected \[B, Q, K\] =",
    ),
    ({"image_indices": torch.ones(2, 4, 4).long()}, ValueError, r"Expected \[B, Q, K\] = \[2, 5, K\], a list"),
    ({"image_indices": [[[0]]]}, TypeError, "image_indices is a list. Expected a tensor"),
    (
        {"reference_points": torch.ones(2, 5, 2)},
        ValueError,
        r"reference_points has shape \[2, 5, 2\]. Expected \[B, Q, K, 2\] or .* = \[2, 5, 4, 2, 3, 2\]",
    ),
    ({"reference_points": torch.ones(2, 5, 3, 2)}, ValueError, r"reference_points has shape \[2, 5, 3, 2\]. Expected"),
    ({"reference_points": torch.ones(2, 5, 4, 2, 4, 2)}, ValueError, r"= \[2, 5, 4, 2, 3, 2\], where K is that of"),
    ({"reference_points": torch.ones(2, 5, 4, 1, 1, 4)}, ValueError, r"reference_points has shape .* Expected"),
    (
        {"sampling_offsets": torch.ones(2, 5, 2, 3, 3, 2)},
        ValueError,
        r"sampling_offsets has shape .* or \[B, Q, H, L, P, 2\], with \[B, Q, H, L, P, 2\] = \[2, 5, 2, 2, 3, 2\]",
    ),
    (
        {"offset_table": torch.ones(4, 2, 2, 3, 2)},
        ValueError,
        r"offset_table has shape .* Expected \[4, 2, 1, 3, 2\], \[A, H, L, P, 2\], or \[A, H, P, 2\] for",
    ),
    ({"offset_table": torch.ones(4, 2, 3)}, ValueError, r"offset_table has shape \[4, 2, 3\]. Expected"),
]


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize(("wrong", "error", "sentence"), WRONG_IMAGE_LISTS)
def test_wrong_lists_of_images(wrong: dict[str, Any], error: type[Exception], sentence: str) -> None:
    case = image_lists_case()
    with pytest.raises(error, match=sentence):
        mmfs_attention(**(case.tensors | case.rest | wrong))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_range_is_a_list_from_its_newest_image_on(backend: Any) -> None:
    case = mmfs_attention_case()
    visible = case.rest.pop("visible")
    ages = torch.arange(1, 7)
    lists = torch.where(ages <= visible.diff(dim=-1), visible[..., 1:] - ages, -1)  # [B, Q, 6]

    def by_lists(reference_points: Tensor, **others: Any) -> Tensor:
        points = reference_points[:, :, None]
        return mmfs_attention(reference_points=points, image_indices=lists.int(), **others, backend=backend)

    def by_ranges(**others: Any) -> Tensor:
        return mmfs_attention(visible=visible, **others, backend=backend)

    found, expected = case.run(by_lists), case.run(by_ranges)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("backend", [None, "reference"])
def test_points_and_offsets_of_a_list_are_broadcast(backend: Any) -> None:
    """One table for offsets of two levels, points of one row of the batch, and gradients of what was given."""
    case = image_lists_case(offsets_by_level=True)
    case.tensors["reference_points"] = case.tensors["reference_points"][:1, :, :, 0, 0]
    case.tensors["offset_table"] = case.tensors["offset_table"][:, :, 0]
    found = case.run(mmfs_attention, backend=backend)
    full = image_lists_case(offsets_by_level=True)
    full.tensors["reference_points"] = case.tensors["reference_points"][:, :, :, None, None].expand(2, -1, -1, 2, 3, 2)
    full.tensors["offset_table"] = case.tensors["offset_table"][:, :, None].expand(-1, -1, 2, -1, -1)
    expected = full.run(mmfs_attention_one_by_one)
    expected["reference_points"] = expected["reference_points"].sum((0, 3, 4))[None]
    expected["offset_table"] = expected["offset_table"].sum(2)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_list_without_slots_sees_nothing(backend: Any) -> None:
    case = image_lists_case(num_slots=0)
    found = case.run(mmfs_attention, backend=backend)
    null_value = case.tensors["null_value"]
    torch.testing.assert_close(found["output"], null_value.flatten().expand(2, 5, -1))
    assert found["reference_points"].shape == (2, 5, 0, 1, 1, 2)
    assert found["value"].eq(0).all()


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
@pytest.mark.parametrize("wrong", [[-1, 2], [0, 7], [6, 7]])
def test_a_range_beyond_the_bank_is_refused(wrong: list[int], backend: Any) -> None:
    case = mmfs_attention_case()
    case.rest["visible"][1, 3] = torch.tensor(wrong)
    with pytest.raises(
        ValueError, match=rf"visible holds the range \[{wrong[0]}, {wrong[1]}\] but the bank has 6 images"
    ):
        mmfs_attention(**case.tensors, **case.rest, backend=backend)


@pytest.mark.parametrize("null_logit", [1e300, -1e300, 3.5e38])
def test_a_null_logit_has_to_fit_the_type_of_accumulation(null_logit: float) -> None:
    case = mmfs_attention_case(null_logit=null_logit)
    if abs(null_logit) > 1e40:  # float64 holds it: null gets all of the weight, or none
        out = mmfs_attention(**case.tensors, **case.rest)
        torch.testing.assert_close(out, mmfs_attention(**case.tensors, **case.rest, backend="reference"))
        assert (out == case.tensors["null_value"].flatten()).all() == (null_logit > 0)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
        for backend in (None, "cpu", "reference"):
            with pytest.raises(ValueError, match=r"null_logit is -?\d.*, which is no finite torch.float32"):
                mmfs_attention(**tensors, **case.rest, backend=backend)


@pytest.mark.parametrize("no_heads", [{"num_heads": 0}, {"dim": 0}])
@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_a_call_without_output_is_checked_too(backend: Any, no_heads: dict[str, int]) -> None:
    case = mmfs_attention_case(**no_heads)
    for name, tensor in case.run(mmfs_attention, backend=backend).items():
        assert tensor.shape == (2, 5, 0) if name == "output" else tensor.shape == case.tensors[name].shape
        assert tensor.count_nonzero() == 0
    case.rest["visible"][1, 3] = torch.tensor([0, 7])
    with pytest.raises(ValueError, match=r"visible holds the range \[0, 7\] but the bank has 6 images"):
        mmfs_attention(**case.tensors, **case.rest, backend=backend)


def test_a_batch_without_heads_costs_no_time() -> None:
    """Its rows are so many that to list them would fill the memory."""
    rows = 2**40
    out = ms_deform_attn(
        torch.empty(rows, 6, 0, 4),
        [(2, 3)],
        torch.empty(rows, 5, 0, 1, 3, 2, requires_grad=True),
        torch.empty(rows, 5, 0, 1, 3),
        backend="cpu",
    )
    assert out.shape == (rows, 5, 0)
    out.sum().backward()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_tensors_over_foreign_memory_may_begin_anywhere(backend: Any) -> None:
    for case, op in ((ms_deform_attn_case(dim=8), ms_deform_attn), (mmfs_attention_case(dim=8), mmfs_attention)):
        tensors = {name: tensor.float() for name, tensor in case.tensors.items()}
        odd = {name: one_byte_on(tensor) for name, tensor in tensors.items()}
        rest = {name: one_byte_on(part) if isinstance(part, Tensor) else part for name, part in case.rest.items()}
        assert_equal_up_to_rounding(op(**odd, **rest, backend=backend), op(**tensors, **case.rest, backend=backend))


def one_byte_on(tensor: Tensor) -> Tensor:
    memory = numpy.zeros(tensor.nbytes + 1, dtype=numpy.uint8)
    moved = torch.from_numpy(memory[1:].view(tensor.numpy().dtype)).view(tensor.shape)
    assert moved.data_ptr() % tensor.element_size()
    return moved.copy_(tensor)


def test_a_tensor_that_is_the_negative_of_its_memory_is_read_so() -> None:
    case = mmfs_attention_case(dim=8)
    negated = {name: torch._neg_view(-tensor) for name, tensor in case.tensors.items()}
    assert negated["value"].is_neg()
    assert_equal_up_to_rounding(mmfs_attention(**negated, **case.rest), mmfs_attention(**case.tensors, **case.rest))


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_sizes_per_image_that_do_not_add_up_are_refused(backend: Any) -> None:
    case = mmfs_attention_case()
    case.tensors["value"] = case.tensors["value"].flatten(0, 1)
    sizes = torch.tensor([[4, 7], [3, 2]]).repeat(6, 1, 1)
    sizes[2, 0, 0] = 5
    case.rest["spatial_shapes"] = sizes
    with pytest.raises(ValueError, match=r"describe 211 pixels in 6 images .* but value holds 204"):
        mmfs_attention(**case.tensors, **case.rest, backend=backend)


def test_forms_of_the_same_arguments_agree() -> None:
    case = mmfs_attention_case()
    expected = mmfs_attention(**case.tensors, **case.rest)
    one_point = {**case.tensors, "reference_points": torch.tensor([0.4, 0.6], dtype=torch.float64)}
    all_points = {**case.tensors, "reference_points": one_point["reference_points"].expand(2, 5, 2)}
    for points in ([0.4, 0.6], [[0.4, 0.6]], [[[0.4, 0.6]]]):
        given = {**case.tensors, "reference_points": torch.tensor(points, dtype=torch.float64)}
        assert_equal_up_to_rounding(
            mmfs_attention(**given, **case.rest),
            mmfs_attention(**all_points, **case.rest),
        )
    rest = {**case.rest, "visible": case.rest["visible"].int(), "spatial_shapes": torch.tensor([[4, 7], [3, 2]])}
    assert_equal_up_to_rounding(mmfs_attention(**case.tensors, **rest), expected)
    of_numpy = {**rest, "spatial_shapes": [tuple(numpy.array([4, 7])), tuple(numpy.array([3, 2]))]}
    assert_equal_up_to_rounding(mmfs_attention(**case.tensors, **of_numpy), expected)
    sizes = torch.tensor([[4, 7], [3, 2]]).repeat(6, 1, 1)
    tensors = {**case.tensors, "value": case.tensors["value"].flatten(0, 1)}
    assert_equal_up_to_rounding(mmfs_attention(**tensors, **{**case.rest, "spatial_shapes": sizes}), expected)
    assert_equal_up_to_rounding(mmfs_attention(**case.tensors, **case.rest, backend="cpu"), expected)


def test_one_reference_point_for_all_gets_the_sum_of_the_gradients() -> None:
    case = mmfs_attention_case()
    point = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    points = point.detach().expand(2, 5, 2).clone().requires_grad_()
    tensors = {name: tensor for name, tensor in case.tensors.items() if name != "reference_points"}
    for given in (point, points):
        mmfs_attention(reference_points=given, **tensors, **case.rest).sin().sum().backward()
    assert point.grad is not None
    assert points.grad is not None
    torch.testing.assert_close(point.grad, points.grad.sum((0, 1)))


def test_named_backends_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    def marked(name: str) -> Any:
        def implementation(value: Tensor, *_: object, **__: object) -> Tensor:
            reached.append(name)
            return value

        return implementation

    monkeypatch.setattr(functional, "ms_deform_attn_reference", marked("reference"))
    monkeypatch.setattr(functional.eager, "ms_deform_attn", marked("operator"))
    case = ms_deform_attn_case()
    for backend in (None, "reference", "cpu"):
        ms_deform_attn(**case.tensors, **case.rest, backend=backend)
    assert reached == ["operator", "reference", "operator"]


def test_why_not_cuda_says_where_the_value_is() -> None:
    assert why_not_cuda(torch.ones(1)) == "value is on cpu"


@pytest.mark.gpu
def test_named_backends_never_fall_back_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    case = ms_deform_attn_case()
    tensors = {name: tensor.cuda() for name, tensor in case.tensors.items()}
    with pytest.raises(ValueError, match="backend='cpu' but value is on cuda:0"):
        ms_deform_attn(**tensors, **case.rest, backend="cpu")
    monkeypatch.setattr(cuda, "why_not", lambda value: "the driver is on holiday")
    with pytest.raises(ValueError, match="backend='cuda' cannot be used: the driver is on holiday"):
        ms_deform_attn(**tensors, **case.rest, backend="cuda")


def test_public_names() -> None:
    assert sorted(mmfs.__all__) == [
        "AttentionReplacement",
        "MMFS",
        "MSDeformAttn",
        "MultiScaleDeformableAttention",
        "explain",
        "mmfs_attention",
        "ms_deform_attn",
        "replace_attention",
        "restore_attention",
        "warmup",
        "why_not_compiled",
        "why_not_cuda",
    ]
