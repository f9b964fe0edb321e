"""A call goes past PyTorch's dispatcher only where nobody else has to hear of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmfs import dispatch, mmfs_attention, ms_deform_attn
from op_cases import mmfs_attention_case, ms_deform_attn_case


class Subclass(Tensor):
    pass


class Heard(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class HeardFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def dual_level() -> Iterator[None]:
    with forward_ad.dual_level():
        yield


def test_plain_tensors_do_not_need_it() -> None:
    assert not dispatch.is_needed((torch.ones(2), nn.Parameter(torch.ones(2)), None, torch.ones(2, requires_grad=True)))
    with torch.inference_mode():
        assert not dispatch.is_needed((torch.ones(2),))


@pytest.mark.parametrize(
    "heard",
    [
        pytest.param(FakeTensorMode, id="fake-tensors"),
        pytest.param(Heard, id="dispatch-mode"),
        pytest.param(HeardFunctions, id="function-mode"),
        pytest.param(lambda: torch.device("cpu"), id="default-device"),
        pytest.param(dual_level, id="forward-mode"),
        pytest.param(lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]), id="profiler"),
    ],
)
def test_whoever_listens_needs_it(heard: Callable[[], Any]) -> None:
    tensor = torch.ones(2)
    with heard():
        assert dispatch.is_needed((tensor,))
    assert not dispatch.is_needed((tensor,))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.ones(2).as_subclass(Subclass), id="subclass"),
        pytest.param(torch.ones(2, dtype=torch.complex64).conj().imag, id="other-numbers-in-memory"),
        pytest.param([1.0], id="no-tensor"),
    ],
)
def test_what_is_no_plain_tensor_needs_it(tensor: object) -> None:
    assert dispatch.is_needed((torch.ones(2), tensor))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_transforms_and_tracers_need_it() -> None:
    needed: list[bool] = []

    def function(tensor: Tensor) -> Tensor:
        needed.append(dispatch.is_needed((tensor,)))
        return tensor.sum()

    ones = torch.ones(2)
    torch.func.vmap(function)(ones)
    torch.func.grad(function)(ones)
    make_fx(function)(ones)
    make_fx(function, pre_dispatch=True)(ones)
    torch.jit.trace(function, (ones,), check_trace=False)
    assert needed == [True] * 5


def test_batched_gradients_need_it() -> None:
    needed: list[bool] = []

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, tensor: Tensor) -> Tensor:
            return tensor.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            needed.append(dispatch.is_needed((grad,)))
            return grad

    tensor = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Identity.apply(tensor), tensor, torch.eye(2), is_grads_batched=True)
    torch.autograd.grad(Identity.apply(tensor), tensor, torch.ones(2))
    assert needed == [True, False]


def run(op: str) -> Tensor:
    if op == "ms_deform_attn":
        case = ms_deform_attn_case()
        return ms_deform_attn(**case.tensors, **case.rest)
    case = mmfs_attention_case()
    return mmfs_attention(**case.tensors, **case.rest)


@pytest.mark.parametrize("op", ["ms_deform_attn", "mmfs_attention"])
def test_modes_and_profilers_hear_of_the_ops(op: str) -> None:
    expected = run(op)
    with Heard() as mode:
        assert torch.equal(run(op), expected)
    assert f"mmfs.{op}.default" in mode.names
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(op)
    assert f"mmfs::{op}" in {event.name for event in profile.events()}


@pytest.mark.parametrize("op", ["ms_deform_attn", "mmfs_attention"])
def test_modes_hear_of_the_gradients(op: str) -> None:
    function = ms_deform_attn if op == "ms_deform_attn" else mmfs_attention
    case = ms_deform_attn_case() if op == "ms_deform_attn" else mmfs_attention_case()
    tensors = {name: tensor.requires_grad_() for name, tensor in case.tensors.items()}
    out = function(**tensors, **case.rest)  # type: ignore[operator]
    with Heard() as mode:
        out.sum().backward()
    assert f"mmfs.{op}_backward.default" in mode.names


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_program_holds_the_op() -> None:
    case = mmfs_attention_case()

    def function(value: Tensor) -> Tensor:
        return mmfs_attention(value, **{n: t for n, t in case.tensors.items() if n != "value"}, **case.rest)

    traced = torch.jit.trace(function, (case.tensors["value"],), check_trace=False)
    assert "mmfs::mmfs_attention" in str(traced.graph)
    assert torch.equal(traced(2 * case.tensors["value"]), function(2 * case.tensors["value"]))


@pytest.mark.parametrize("name", ["value", "sampling_offsets", "attention_logits"])
def test_the_numbers_of_a_conjugate_are_taken_and_not_those_in_its_memory(name: str) -> None:
    case = mmfs_attention_case()
    expected = mmfs_attention(**case.tensors, **case.rest)
    negative = -case.tensors[name]
    case.tensors[name] = torch._neg_view(negative)
    assert case.tensors[name].is_contiguous()
    torch.testing.assert_close(mmfs_attention(**case.tensors, **case.rest), expected)
