"""Every way that PyTorch has to differentiate, through both ops, against the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd import functional as autograd_functional
from torch.export import export
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import mmfs
from mmfs import MSDeformAttn, mmfs_attention, ms_deform_attn
from op_cases import NOT_SQUARE, Case, image_lists_case, mmfs_attention_case, ms_deform_attn_case

# PyTorch's own forward mode compiles its decompositions by torch.jit.script when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")

Function = Callable[[Tensor], Tensor]

SMALL = ms_deform_attn_case(num_queries=3)
SMALL_BANK = mmfs_attention_case(num_queries=4, num_images=3)
PARTS = [
    pytest.param(op, case, name, id=f"{op.__name__}-{name}")
    for op, case in ((ms_deform_attn, SMALL), (mmfs_attention, SMALL_BANK))
    for name in case.tensors
    if name not in ("reference_points", "attention_logits", "logit_table")  # other tests have these
]
SMALL_LISTS = image_lists_case(num_queries=4, num_images=3, num_slots=2, points_by_level=True)
PARTS.append(pytest.param(mmfs_attention, SMALL_LISTS, "reference_points", id="image-lists-reference_points"))


def of_one(op: Callable[..., Tensor], case: Case, name: str, **more: Any) -> Function:
    """The op as a function of one of its tensors."""
    others = {other: tensor for other, tensor in case.tensors.items() if other != name} | case.rest
    return lambda tensor: op(**{name: tensor}, **others, **more)


def scalar(function: Function) -> Function:
    return lambda tensor: function(tensor).sin().sum()


def dual(function: Function, tensor: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent: Tensor = forward_ad.unpack_dual(function(forward_ad.make_dual(tensor, tensor.cos()))).tangent
    return tangent


def gradient_with_tangent(function: Function, tensor: Tensor) -> Tensor:
    """Forward mode over a backward: the graph is made inside the level."""
    with forward_ad.dual_level():
        leaf = forward_ad.make_dual(tensor.clone().requires_grad_(), tensor.cos())
        (gradient,) = torch.autograd.grad(scalar(function)(leaf), leaf)
        return forward_ad.unpack_dual(gradient).tangent


def tangent_of_a_late_backward(function: Function, tensor: Tensor) -> Tensor:
    """A graph that was made before the level, and a gradient that brings the tangent."""
    leaf = tensor.clone().requires_grad_()
    out = function(leaf)
    with forward_ad.dual_level():
        weighting = forward_ad.make_dual(torch.ones_like(out), out.detach().cos())
        (gradient,) = torch.autograd.grad(out, leaf, weighting)
        return forward_ad.unpack_dual(gradient).tangent


def penalty(function: Function, tensor: Tensor) -> Tensor:
    """The gradient of a penalty on a gradient, as WGAN-GP has it."""
    leaf = tensor.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(function)(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient.norm() - 1).square(), leaf)
    return second


def third(function: Function, tensor: Tensor) -> Tensor:
    leaf = tensor.clone().requires_grad_()
    (first,) = torch.autograd.grad(scalar(function)(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf, create_graph=True)
    (last,) = torch.autograd.grad(second.square().sum(), leaf)
    return last


def batched_gradients(function: Function, tensor: Tensor) -> Tensor:
    leaf = tensor.clone().requires_grad_()
    out = function(leaf)
    weightings = torch.stack([torch.ones_like(out), out.detach().cos()])
    (gradients,) = torch.autograd.grad(out, leaf, weightings, is_grads_batched=True)
    return gradients


def samples(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor * 0.5, tensor + 0.1])


WAYS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "jvp": lambda function, tensor: jvp(function, (tensor,), (tensor.cos(),))[1],
    "dual level": dual,
    "forward over backward": gradient_with_tangent,
    "late backward": tangent_of_a_late_backward,
    "grad": lambda function, tensor: grad(scalar(function))(tensor),
    "vjp": lambda function, tensor: vjp(function, tensor)[1](function(tensor).cos())[0],
    "vmap": lambda function, tensor: vmap(function)(samples(tensor)),
    "vmap at another axis": lambda function, tensor: vmap(function, in_dims=-1)(samples(tensor).movedim(0, -1)),
    "gradients of samples": lambda function, tensor: vmap(grad(scalar(function)))(samples(tensor)),
    "tangents of samples": lambda function, tensor: vmap(lambda x: jvp(function, (x,), (x.cos(),))[1])(samples(tensor)),
    "jacrev": lambda function, tensor: jacrev(function)(tensor),
    "jacfwd": lambda function, tensor: jacfwd(function)(tensor),
    "grad of grad": lambda function, tensor: grad(lambda x: grad(scalar(function))(x).square().sum())(tensor),
    "jvp of jvp": lambda function, tensor: jvp(
        lambda x: jvp(function, (x,), (x.cos(),))[1], (tensor,), (tensor.sin(),)
    )[1],
    "jacobian": lambda function, tensor: autograd_functional.jacobian(function, tensor),
    "vectorized jacobian": lambda function, tensor: autograd_functional.jacobian(function, tensor, vectorize=True),
    "forward jacobian": lambda function, tensor: autograd_functional.jacobian(
        function, tensor, vectorize=True, strategy="forward-mode"
    ),
    "double-backward jvp": lambda function, tensor: autograd_functional.jvp(function, tensor, tensor.cos())[1],
    "hvp": lambda function, tensor: autograd_functional.hvp(scalar(function), tensor, tensor.cos())[1],
    "vhp": lambda function, tensor: autograd_functional.vhp(scalar(function), tensor, tensor.cos())[1],
    "gradient penalty": penalty,
    "third derivative": third,
    "batched gradients": batched_gradients,
    "checkpoint": lambda function, tensor: torch.autograd.grad(
        checkpoint(scalar(function), leaf := tensor.clone().requires_grad_(), use_reentrant=False), leaf
    )[0],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("op", "case", "name"), PARTS)
def test_as_the_reference(way: str, op: Callable[..., Tensor], case: Case, name: str) -> None:
    tensor = case.tensors[name]
    found = WAYS[way](of_one(op, case, name), tensor)
    expected = WAYS[way](of_one(op, case, name, backend="reference"), tensor)
    assert found is not None
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("op", "case"), [(ms_deform_attn, SMALL), (mmfs_attention, SMALL_BANK), (mmfs_attention, SMALL_LISTS)]
)
def test_hessian(op: Callable[..., Tensor], case: Case) -> None:
    """With respect to all that moves or weighs samples."""
    names = [name for name in case.tensors if name not in ("value", "null_value", "offset_table", "logit_table")]

    def loss(*tensors: Tensor, backend: Any = None) -> Tensor:
        given = case.tensors | dict(zip(names, tensors, strict=True))
        return op(**given, **case.rest, backend=backend).sin().sum()

    numbers = tuple(range(len(names)))
    tensors = [case.tensors[name] for name in names]
    found = hessian(loss, argnums=numbers)(*tensors)
    expected = hessian(lambda *given: loss(*given, backend="reference"), argnums=numbers)(*tensors)
    torch.testing.assert_close(found, expected)


def test_samples_that_see_different_images() -> None:
    """The reference alone cannot do this: how many images a query sees decides how it computes."""
    case = SMALL_BANK
    name = "attention_logits"
    others = {other: tensor for other, tensor in case.tensors.items() if other != name}
    visible = torch.stack([case.rest["visible"], torch.zeros_like(case.rest["visible"]), case.rest["visible"].flip(1)])
    rest = {other: part for other, part in case.rest.items() if other != "visible"}

    def loss(logits: Tensor, visible: Tensor, backend: Any = None) -> Tensor:
        return mmfs_attention(**{name: logits}, visible=visible, **others, **rest, backend=backend).sin().sum()

    logits = samples(case.tensors[name])
    for transform in (grad, hessian):
        found = vmap(transform(loss))(logits, visible)
        one_by_one = zip(logits, visible, strict=True)
        expected = [transform(lambda one, seen: loss(one, seen, "reference"))(*pair) for pair in one_by_one]
        torch.testing.assert_close(found, torch.stack(expected))


def test_samples_with_lists_of_their_own() -> None:
    case = SMALL_LISTS
    others = {name: tensor for name, tensor in case.tensors.items() if name != "reference_points"}
    lists = case.rest["image_indices"]
    lists = torch.stack([lists, torch.full_like(lists, -1), lists.flip(1)])
    rest = {name: part for name, part in case.rest.items() if name != "image_indices"}

    def loss(points: Tensor, image_indices: Tensor, backend: Any = None) -> Tensor:
        out = mmfs_attention(reference_points=points, image_indices=image_indices, **others, **rest, backend=backend)
        return out.sin().sum()

    points = samples(case.tensors["reference_points"])
    found = vmap(grad(loss))(points, lists)
    for one, listed, gradient in zip(points, lists, found, strict=True):
        torch.testing.assert_close(gradient, grad(lambda given, own=listed: loss(given, own, "reference"))(one))


def test_gradients_of_common_parameters_for_each_sample() -> None:
    """As differential privacy needs them: a layer's parameters are common, their gradients are not."""
    torch.manual_seed(0)
    layer = MSDeformAttn(12, n_levels=2, n_heads=2, n_points=3).double()
    query, features = torch.randn(4, 1, 5, 12).double(), torch.randn(4, 1, 34, 12).double()
    points = torch.rand(4, 1, 5, 2, 2).double()
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return functional_call(layer, parameters, (*sample, NOT_SQUARE)).sin().sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, query, points, features)
    for number, sample in enumerate(zip(query, points, features, strict=True)):
        layer.zero_grad()
        loss(parameters, *sample).backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(found[name][number], parameter.grad)


def test_common_tables_for_each_sample() -> None:
    case = SMALL_BANK
    others = {name: tensor for name, tensor in case.tensors.items() if name not in ("logit_table", "attention_logits")}

    def loss(table: Tensor, logits: Tensor, backend: Any = None) -> Tensor:
        return (
            mmfs_attention(attention_logits=logits, logit_table=table, **others, **case.rest, backend=backend)
            .sin()
            .sum()
        )

    table, logits = case.tensors["logit_table"], samples(case.tensors["attention_logits"])
    found = vmap(grad(loss), in_dims=(None, 0))(table, logits)
    expected = [grad(lambda table, one: loss(table, one, "reference"))(table, one) for one in logits]
    torch.testing.assert_close(found, torch.stack(expected))


def test_without_tables_and_null() -> None:
    case = mmfs_attention_case(num_queries=4, num_images=3, tables=False, null_value=False, null_logit=None)
    value = case.tensors["value"]
    found, expected = (of_one(mmfs_attention, case, "value", backend=backend) for backend in (None, "reference"))
    for way in ("jvp", "gradients of samples", "gradient penalty", "grad of grad"):
        torch.testing.assert_close(WAYS[way](found, value), WAYS[way](expected, value))


def test_sizes_of_each_image() -> None:
    case = mmfs_attention_case(num_queries=4, num_images=3)
    rest = case.rest | {"spatial_shapes": torch.tensor(NOT_SQUARE).expand(3, 2, 2).contiguous()}
    tensors = case.tensors | {"value": case.tensors["value"].flatten(0, 1)}
    flat = Case(tensors, rest)
    found, expected = (of_one(mmfs_attention, flat, "value", backend=backend) for backend in (None, "reference"))
    for way in ("jvp", "gradients of samples", "gradient penalty"):
        torch.testing.assert_close(WAYS[way](found, tensors["value"]), WAYS[way](expected, tensors["value"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_types_keep_their_type(dtype: torch.dtype) -> None:
    case = Case({name: tensor.to(dtype) for name, tensor in SMALL.tensors.items()}, SMALL.rest)
    found, expected = (of_one(ms_deform_attn, case, "value", backend=backend) for backend in (None, "reference"))
    for way in ("jvp", "grad", "gradient penalty"):
        result = WAYS[way](found, case.tensors["value"])
        assert result.dtype == dtype
        torch.testing.assert_close(result, WAYS[way](expected, case.tensors["value"]))


def test_only_one_argument_needs_a_second_derivative() -> None:
    """A value without a gradient has none to differentiate again."""
    case = SMALL
    value, weights = case.tensors["value"], case.tensors["attention_weights"].clone().requires_grad_()
    locations = case.tensors["sampling_locations"].clone().requires_grad_()

    def mixed(backend: Any) -> Tensor:
        out = ms_deform_attn(value, NOT_SQUARE, locations, weights, backend=backend)
        (first,) = torch.autograd.grad(out.sin().sum(), weights, create_graph=True)
        return torch.autograd.grad(first.square().sum(), locations)[0]

    torch.testing.assert_close(mixed(None), mixed("reference"))


def test_mapped_over_nothing_is_refused() -> None:
    function = of_one(ms_deform_attn, SMALL, "value")
    with pytest.raises(ValueError, match="mapped over no samples"):
        vmap(function)(SMALL.tensors["value"][None][:0])


class Sampled(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return (
            of_one(ms_deform_attn, SMALL, "value")(value)
            + of_one(mmfs_attention, SMALL_BANK, "value")(value[:1].expand(3, -1, -1, -1))[:, :3].sum()
        )


def test_an_exported_program_has_its_derivatives() -> None:
    value = SMALL.tensors["value"]
    program = export(Sampled(), (value,)).module()
    for way in ("jvp", "grad", "gradients of samples", "jacrev"):
        torch.testing.assert_close(WAYS[way](program, value), WAYS[way](Sampled(), value))


def test_an_exported_program_in_a_dual_level_is_refused() -> None:
    """Its nodes are the operators themselves, which would lose the tangent."""
    value = SMALL.tensors["value"]
    program = export(Sampled(), (value,)).module()
    with pytest.raises(RuntimeError, match=r"would lose it.*torch.func.jvp"):
        dual(program, value)
    with forward_ad.dual_level():
        torch.testing.assert_close(program(value), Sampled()(value))  # nothing moves: nothing to lose


@pytest.mark.parametrize("way", ["jvp", "grad", "gradients of samples", "jacrev"])
def test_compiled(way: str) -> None:
    """The transform is compiled with the function."""
    value = SMALL.tensors["value"]
    # The reference of mmfs_attention reads numbers, and is what gives tangents.
    function = of_one(ms_deform_attn, SMALL, "value") if way == "jvp" else Sampled()

    def transformed(value: Tensor) -> Tensor:
        return WAYS[way](function, value)

    compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(value), transformed(value))


@pytest.mark.parametrize("way", ["jvp", "grad", "dual level"])
def test_a_transform_of_a_compiled_function(way: str) -> None:
    function, value = of_one(ms_deform_attn, SMALL, "value"), SMALL.tensors["value"]
    torch.testing.assert_close(
        WAYS[way](torch.compile(function, backend="aot_eager"), value), WAYS[way](function, value)
    )


def test_a_compiled_dual_level_is_left_to_python_or_refused() -> None:
    function, value = of_one(ms_deform_attn, SMALL, "value"), SMALL.tensors["value"]
    compiled = torch.compile(functools.partial(dual, function), backend="eager")
    torch.testing.assert_close(compiled(value), dual(function, value))
    torch.compiler.reset()
    with pytest.raises(Exception, match="would lose the tangents"):
        torch.compile(functools.partial(dual, function), backend="eager", fullgraph=True)(value)


def test_traced_by_make_fx() -> None:
    function, value = of_one(ms_deform_attn, SMALL, "value"), SMALL.tensors["value"]
    for way in ("jvp", "grad", "gradients of samples"):
        transformed = functools.partial(WAYS[way], function)
        torch.testing.assert_close(make_fx(transformed)(value)(value + 0.5), transformed(value + 0.5))


def test_under_autocast() -> None:
    torch.manual_seed(0)
    layer = MSDeformAttn(12, n_levels=2, n_heads=2, n_points=3)
    query, points, features = torch.randn(1, 5, 12), torch.rand(1, 5, 2, 2), torch.randn(1, 34, 12)

    def loss(query: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(query, points, features, NOT_SQUARE).float().sin().sum()

    leaf = query.clone().requires_grad_()
    torch.testing.assert_close(grad(loss)(query), torch.autograd.grad(loss(leaf), leaf)[0])


def test_the_kernels_compute_first_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.func.grad costs what backward costs."""

    def refuse(*_: object) -> None:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(mmfs.derivatives, "ms_deform_attn_reference", refuse)
    value = SMALL.tensors["value"]
    grad(scalar(of_one(ms_deform_attn, SMALL, "value")))(value)
    vmap(grad(scalar(of_one(ms_deform_attn, SMALL, "value"))))(samples(value))
