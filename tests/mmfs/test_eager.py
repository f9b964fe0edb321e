"""Calls without PyTorch's dispatcher give what the operators give, and refuse what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from mmfs import autograd, compiled, eager, mmfs_attention, ms_deform_attn
from mmfs.arguments import MMFSAttentionArguments
from numerics import assert_equal_up_to_rounding
from op_cases import Case, arguments_of, image_lists_case, mmfs_attention_case, ms_deform_attn_case, strided
from random_op_calls import one_byte_on

NEEDS_KERNEL = pytest.mark.skipif(compiled.why_not() is not None, reason=str(compiled.why_not()))


def read_case(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of a call that is read in C."""
    case = mmfs_attention_case()
    tensors = {name: tensor.float() for name, tensor in case.tensors.items()}
    return {**tensors, "value": tensors["value"].to(dtype), **case.rest}


def read(**named: Any) -> compiled.MMFSAttentionCall | None:
    arguments: MMFSAttentionArguments = arguments_of(**named)
    return compiled.read_mmfs_attention(arguments)


@pytest.fixture
def no_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the operator was asked")

    for name in ("ms_deform_attn", "mmfs_attention", "mmfs_attention_with_lse"):
        for each in (name, f"{name}_backward"):
            monkeypatch.setattr(torch.ops.mmfs, each, refuse, raising=False)


CASES = [
    pytest.param(ms_deform_attn, ms_deform_attn_case(), id="ms_deform_attn"),
    pytest.param(mmfs_attention, mmfs_attention_case(), id="mmfs_attention"),
    pytest.param(mmfs_attention, mmfs_attention_case(tables=False, null_value=False, null_logit=None), id="bare"),
    pytest.param(mmfs_attention, image_lists_case(), id="image-lists"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("op", "case"), CASES)
@pytest.mark.usefixtures("no_dispatch")
def test_calls_and_gradients_do_without_the_operators(op: Any, case: Case, dtype: torch.dtype) -> None:
    exact = case.run(op, dtype, backend="reference")
    for name, tensor in case.run(op, dtype).items():
        torch.testing.assert_close(tensor, exact[name])


@pytest.mark.parametrize(("op", "case"), CASES)
def test_second_derivatives_are_the_references(op: Any, case: Case) -> None:
    def penalty(**options: Any) -> list[Tensor]:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in case.tensors.items()}
        out = op(**leaves, **case.rest, **options)
        first = torch.autograd.grad(out.square().sum(), list(leaves.values()), create_graph=True)
        loss = torch.stack([gradient.square().sum() for gradient in first]).sum()
        return list(torch.autograd.grad(loss, list(leaves.values())))

    for found, exact in zip(penalty(), penalty(backend="reference"), strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("points", [(2,), (1, 2), (1, 1, 2), (5, 2), (2, 1, 2), (2, 5, 2)], ids=str)
def test_gradients_of_points_that_broadcast_have_their_shape(points: tuple[int, ...]) -> None:
    case = mmfs_attention_case()
    case.tensors["reference_points"] = torch.rand(points, dtype=torch.float64)
    exact = case.run(mmfs_attention, backend="reference")
    for name, tensor in case.run(mmfs_attention).items():
        assert tensor.shape == exact[name].shape
        torch.testing.assert_close(tensor, exact[name])


@pytest.mark.parametrize("points", [(2,), (1, 2), (1, 1, 2)], ids=str)
def test_one_query_has_gradients_of_its_point(points: tuple[int, ...]) -> None:
    """Points that lie in memory as [B, Q, 2] would, with axes left out."""
    case = mmfs_attention_case(batch=1, num_queries=1)
    case.rest["visible"] = torch.tensor([[[1, 4]]])
    case.tensors["reference_points"] = torch.rand(points, dtype=torch.float64)
    exact = case.run(mmfs_attention, backend="reference")
    for name, tensor in case.run(mmfs_attention).items():
        assert tensor.shape == exact[name].shape
        torch.testing.assert_close(tensor, exact[name])


@pytest.mark.parametrize(("op", "case"), CASES)
def test_what_the_gradient_needs_is_kept_where_autograd_watches(op: Any, case: Case) -> None:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in case.tensors.items()}
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        op(**leaves, **case.rest).sum().backward()
    assert len(packed) >= len(leaves)
    moved = {name: tensor * 1 for name, tensor in leaves.items()}
    out = op(**moved, **case.rest)
    with torch.no_grad():
        moved["value"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    case = mmfs_attention_case()
    exact = case.run(mmfs_attention)

    def recomputed(**named: Any) -> Tensor:
        out: Tensor = checkpoint(mmfs_attention, **named, use_reentrant=False)
        return out

    for name, tensor in case.run(recomputed).items():
        assert_equal_up_to_rounding(tensor, exact[name])


def test_a_gradient_that_is_expanded_is_read_right() -> None:
    case = mmfs_attention_case()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in case.tensors.items()}
    found = torch.autograd.grad(mmfs_attention(**leaves, **case.rest).sum(), list(leaves.values()))
    exact = torch.autograd.grad(mmfs_attention(**leaves, **case.rest, backend="reference").sum(), list(leaves.values()))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


# ---------------------------------------------------------------------------------------------------------------------
# What is read in C


@NEEDS_KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("left_out", [(), ("offset_table",), ("logit_table",), ("null_value",), ("null_logit",)])
def test_what_the_kernel_takes_as_it_is_is_read_in_c(left_out: tuple[str, ...], dtype: torch.dtype) -> None:
    if compiled.describe_tensor() is None:
        pytest.skip("this version of PyTorch does not describe tensors in C")
    named = read_case(dtype) | dict.fromkeys(left_out)
    call = read(**named)
    assert call is not None
    out = compiled.output_of(call, arguments_of(**named))
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(out, mmfs_attention(**named, backend="reference"), **tolerance)


def freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


OF_WIDE_TYPE = ("reference_points", "sampling_offsets", "attention_logits", "offset_table", "logit_table", "null_value")
OTHERS = {
    "strided": strided,
    "odd-address": one_byte_on,
    "one-axis-more": lambda tensor: tensor[None],
    "one-axis-less": lambda tensor: tensor[0],
    "one-row-less": lambda tensor: tensor[..., :-1].contiguous(),
    "first-row-left-out": lambda tensor: tensor[1:],
    "empty": lambda tensor: tensor[:0],
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "zeros-without-memory": lambda tensor: torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype),
    "freed": freed,
    "float16": lambda tensor: tensor.half(),
    "int32": lambda tensor: tensor.int(),
    "bool": lambda tensor: tensor.bool(),
}
FITS = {("value", "float16"), ("value", "first-row-left-out")}
FITS |= {(name, "first-row-left-out") for name in ("offset_table", "logit_table")}


@NEEDS_KERNEL
@pytest.mark.parametrize("name", ["value", "visible", *OF_WIDE_TYPE])
@pytest.mark.parametrize("other", OTHERS)
def test_what_it_does_not_take_is_not_read(name: str, other: str) -> None:
    if (name, other) in FITS:
        return
    named = read_case()
    assert read(**named | {name: OTHERS[other](named[name])}) is None


@NEEDS_KERNEL
@pytest.mark.parametrize("name", ["visible", *OF_WIDE_TYPE[:3]])
def test_what_every_call_has_is_not_read_as_left_out(name: str) -> None:
    assert read(**read_case() | {name: None}) is None


@NEEDS_KERNEL
@pytest.mark.parametrize(
    "sizes",
    [[(4, 7)], [(4, 7), (3, 2), (1, 1)], [(7, 5), (3, 2)], [(2**64 + 4, 7), (3, 2)], [(-4, -7), (3, 2)], [(28, 0)], []],
    ids=str,
)
def test_sizes_that_do_not_fit_are_not_read(sizes: list[tuple[int, int]]) -> None:
    assert read(**read_case() | {"spatial_shapes": sizes}) is None


@NEEDS_KERNEL
def test_images_that_differ_or_are_listed_are_not_read_in_c() -> None:
    named = read_case()
    assert read(**named | {"spatial_shapes": torch.tensor(named["spatial_shapes"]).expand(6, 2, 2)}) is None
    lists = image_lists_case()
    assert read(**{n: t.float() for n, t in lists.tensors.items()}, **lists.rest) is None


@NEEDS_KERNEL
@pytest.mark.parametrize("null_logit", [torch.nan, torch.inf, 1e39, True, "0"])
def test_a_null_logit_that_is_no_finite_float_goes_through_the_checks(null_logit: Any) -> None:
    arguments = arguments_of(**read_case() | {"null_logit": null_logit})
    assert eager.mmfs_attention_in_c(arguments) is None


def test_without_descriptions_in_c_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a PyTorch of another version of DLPack."""
    case = mmfs_attention_case()
    expected = case.run(mmfs_attention)
    monkeypatch.setattr(compiled, "describe_tensor", lambda: None)
    assert read(**read_case()) is None
    for name, tensor in case.run(mmfs_attention).items():
        assert_equal_up_to_rounding(tensor, expected[name])


def test_a_call_of_another_dtype_than_the_kernels_takes_the_operators_of_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "why_not", lambda value=None: "it is on holiday")
    case = mmfs_attention_case()
    assert autograd.implementation(case.tensors["value"]) is not compiled
    exact = case.run(mmfs_attention, backend="reference")
    for name, tensor in case.run(mmfs_attention).items():
        torch.testing.assert_close(tensor, exact[name])
