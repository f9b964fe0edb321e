"""Both ops under torch.func's transforms, in forward mode, and differentiated more than once.

The kernels compute the ops and their first gradients. Every other derivative is one of the reference, which is plain
PyTorch: right to any order, as slow as the reference, and with its memory, [B, Q, H, L, P, D] for every image that a
query sees.

A transform that maps over samples (vmap, and what is made of it: per-sample gradients, jacrev, hessian) calls
`ms_deform_attn` once, with its samples as one batch. The kernels of `mmfs_attention` are called once for each sample,
because samples have banks and tables of their own, or gradients of common ones; so is its reference if samples see
different images, because how many a query sees decides how it computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
)
from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference

Formula = Callable[..., tuple[Tensor, ...]]
"""Tensors, and constants between them, to tensors. The floating tensors are differentiated."""


class Differentiable:
    """A formula that has its derivatives under every transform, to any order.

    Args:
        formula: in plain PyTorch, differentiable.
        compute: the same numbers, without a graph; None: by the formula.
        compute_gradient: likewise for `gradient`.
        batched: all tensors have the batch as their first axis, and rows of it have nothing to do with each other.
    """

    def __init__(
        self,
        formula: Formula,
        compute: Formula | None = None,
        compute_gradient: Formula | None = None,
        *,
        batched: bool,
    ) -> None:
        self.formula = formula
        self.compute = formula if compute is None else compute
        self.compute_gradient = compute_gradient
        self.batched = batched
        self.gradient = functools.cache(self._gradient)
        self.tangent = functools.cache(self._tangent)
        self.function = _function(self)

    def __call__(self, *fields: Any) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = self.function.apply(*fields)
        return results

    def _gradient(self, num_outputs: int) -> Differentiable:
        """(gradients of the outputs, fields) -> gradients of those fields that are floating tensors."""

        def gradient(*arguments: Any) -> tuple[Tensor, ...]:
            outer, fields = arguments[:num_outputs], arguments[num_outputs:]
            function, tensors = _of_tensors(self.formula, fields, [is_differentiable(field) for field in fields])
            _, pull_back = _vjp(function, *tensors)
            inner: tuple[Tensor, ...] = pull_back(outer)
            return inner

        return Differentiable(gradient, self.compute_gradient, batched=self.batched)

    def _tangent(self, moved: tuple[bool, ...]) -> Differentiable:
        """(tangents of the fields that are moved, fields) -> tangents of the outputs.

        The gradient is linear in the gradients of the outputs, and its own gradient with respect to these is the
        tangent: so this needs no forward mode, which PyTorch does not nest.
        """
        num_moved = sum(moved)

        def tangent(*arguments: Any) -> tuple[Tensor, ...]:
            tangents, fields = arguments[:num_moved], arguments[num_moved:]
            function, tensors = _of_tensors(self.formula, fields, moved)
            outputs, pull_back = _vjp(function, *tensors)
            _, push_forward = _vjp(pull_back, tuple(torch.zeros_like(output) for output in outputs))
            (of_outputs,) = push_forward(tangents)
            return tuple(of_outputs)

        return Differentiable(tangent, batched=self.batched)


def _function(of: Differentiable) -> type[Function]:
    class Transformed(Function):
        @staticmethod
        def forward(*fields: Any) -> tuple[Tensor, ...]:
            return of.compute(*fields)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.save_for_forward(*keep(ctx, inputs))

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            fields = restored(ctx)[0]
            inner = iter(of.gradient(len(gradients))(*gradients, *fields))
            return tuple([next(inner) if is_differentiable(field) else None for field in fields])

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
            moved = tuple([tangent is not None for tangent in tangents])
            given = [tangent for tangent in tangents if tangent is not None]
            return of.tangent(moved)(*given, *restored(ctx)[0])

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *fields: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
            if info.batch_size < 1:
                raise ValueError("An mmfs op is mapped over no samples. Expected at least 1 of vmap's dimension.")
            dims = [dim if isinstance(field, Tensor) else None for field, dim in zip(fields, in_dims, strict=True)]
            if of.batched:
                outputs = _as_one_batch(of, info.batch_size, dims, fields)
            elif of.compute is of.formula and not any(
                dim is not None and not is_differentiable(field) for field, dim in zip(fields, dims, strict=True)
            ):
                outputs = Differentiable(torch.func.vmap(of.formula, tuple(dims)), batched=False)(*fields)
            else:
                outputs = _one_by_one(of, info.batch_size, dims, fields)
            return outputs, (0,) * len(outputs)

    return Transformed


def keep(ctx: Any, fields: Sequence[Any], *others: Tensor | None) -> list[Tensor | None]:
    """Tensors where autograd watches over them, everything else beside them; returns the fields' tensors."""
    tensors = [field if isinstance(field, Tensor) else None for field in fields]
    ctx.constants = [field if tensor is None else None for field, tensor in zip(fields, tensors, strict=True)]
    ctx.save_for_backward(*tensors, *others)
    return tensors


def restored(ctx: Any) -> tuple[list[Any], tuple[Tensor | None, ...]]:
    """The fields and the others that `keep` was given."""
    saved, constants = ctx.saved_tensors, ctx.constants
    tensors, others = saved[: len(constants)], saved[len(constants) :]
    return [field if tensor is None else tensor for field, tensor in zip(constants, tensors, strict=True)], others


def _as_one_batch(
    of: Differentiable, num_samples: int, dims: Sequence[int | None], fields: Sequence[Any]
) -> tuple[Tensor, ...]:
    def folded(field: Any, dim: int | None) -> Any:
        if not isinstance(field, Tensor):
            return field
        samples = field.expand(num_samples, *field.shape) if dim is None else field.movedim(dim, 0)
        return samples.flatten(0, 1)

    outputs = of(*map(folded, fields, dims))
    return tuple(output.unflatten(0, (num_samples, output.shape[0] // num_samples)) for output in outputs)


def _one_by_one(
    of: Differentiable, num_samples: int, dims: Sequence[int | None], fields: Sequence[Any]
) -> tuple[Tensor, ...]:
    def of_sample(field: Any, dim: int | None, sample: int) -> Any:
        return field.select(dim, sample) if isinstance(field, Tensor) and dim is not None else field

    samples = [
        of(*[of_sample(field, dim, sample) for field, dim in zip(fields, dims, strict=True)])
        for sample in range(num_samples)
    ]
    return tuple(torch.stack(outputs) for outputs in zip(*samples, strict=True))


def _of_tensors(
    formula: Formula, fields: Sequence[Any], chosen: Sequence[bool]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The formula as a function of the chosen fields alone, and these."""

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        return formula(*[next(given) if is_chosen else field for field, is_chosen in zip(fields, chosen, strict=True)])

    return function, [field for field, is_chosen in zip(fields, chosen, strict=True) if is_chosen]


def _vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`torch.func.vjp`, whose declared type allows for a third result."""
    outputs, pull_back, *_ = torch.func.vjp(function, *primals)
    return outputs, pull_back


def is_differentiable(field: Any) -> bool:
    return isinstance(field, Tensor) and field.is_floating_point()


def forward_mode() -> bool:
    """Whether tensors may have tangents now: inside `torch.autograd.forward_ad.dual_level` or `torch.func.jvp`."""
    # What unpack_dual asks for each tensor. A small call cannot afford to ask for all of its tensors.
    return forward_ad._current_level >= 0


def is_compiled_transform() -> bool:
    """Whether torch.compile is tracing torch.func.jvp: the operators in its graph get their tangents when it runs.

    Raises:
        RuntimeError: it traces `forward_ad.dual_level`, in whose graph they would not. (Without fullgraph=True,
            torch.compile leaves such code to Python, which is right.)
    """
    if not torch.compiler.is_compiling():
        return False
    if not torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "An mmfs op is compiled inside of forward_ad.dual_level, and would lose the tangents. Expected "
            "torch.func.jvp, or torch.compile without fullgraph=True."
        )
    return True


def computes_tangents() -> bool:
    """Whether a call of an op has to go through this file, so that its result has tangents."""
    return forward_mode() and not is_compiled_transform()


def check_no_tangent(fields: Sequence[Any]) -> None:
    """Raises RuntimeError for a tensor with a tangent, which whoever asks would lose."""
    # PyTorch turns forward mode off in a Function, whose jvp looks after the tangents.
    if (
        forward_mode()
        and torch._C._is_fwd_grad_enabled()
        and any(isinstance(field, Tensor) and forward_ad.unpack_dual(field).tangent is not None for field in fields)
    ):
        raise RuntimeError(
            "A kernel of mmfs was given a tensor with a tangent by an exported or compiled program, or by "
            "torch.ops.mmfs itself, and would lose it. Expected forward mode through mmfs.ms_deform_attn, "
            "mmfs.mmfs_attention or a layer; or torch.func.jvp, which works with programs too."
        )


# ---------------------------------------------------------------------------------------------------------------------
# The ops


def _ms_deform_attn_formula(*fields: Any) -> tuple[Tensor, ...]:
    return (ms_deform_attn_reference(MSDeformAttnArguments(*fields)),)


def _ms_deform_attn(*fields: Any) -> tuple[Tensor, ...]:
    return (torch.ops.mmfs.ms_deform_attn(*fields),)


def _ms_deform_attn_gradient(grad_out: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    return tuple(torch.ops.mmfs.ms_deform_attn_backward(grad_out, True, *fields))


def _mmfs_attention_formula(*fields: Any) -> tuple[Tensor, ...]:
    return (mmfs_attention_reference(MMFSAttentionArguments(*fields)),)


def _mmfs_attention(*fields: Any) -> tuple[Tensor, ...]:
    return (torch.ops.mmfs.mmfs_attention(*fields),)


def _mmfs_attention_gradient(grad_out: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    gradients = MMFSAttentionGradients(*torch.ops.mmfs.mmfs_attention_backward(grad_out, True, None, *fields))
    arguments = MMFSAttentionArguments(*fields)
    return tuple(gradient for name, gradient in gradients._asdict().items() if getattr(arguments, name) is not None)


MS_DEFORM_ATTN: Final = Differentiable(_ms_deform_attn_formula, _ms_deform_attn, _ms_deform_attn_gradient, batched=True)
MMFS_ATTENTION: Final = Differentiable(
    _mmfs_attention_formula, _mmfs_attention, _mmfs_attention_gradient, batched=False
)


def second(
    of: Differentiable,
    grads: Sequence[Tensor],
    grad_out: Tensor,
    arguments: MSDeformAttnArguments | MMFSAttentionArguments,
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of an op's gradient: of grad_out, and of each of the op's arguments (None: it can have none).

    grads: of the gradients of the floating arguments that are given, in their order.
    """
    of_grad_out, *others = of.gradient(1).gradient(len(grads))(*grads, grad_out, *arguments)
    remaining = iter(others)
    return of_grad_out, [next(remaining) if is_differentiable(field) else None for field in arguments]


def ms_deform_attn(*fields: Any) -> Tensor:
    """`torch.ops.mmfs.ms_deform_attn`, under every transform."""
    return MS_DEFORM_ATTN(*fields)[0]


def ms_deform_attn_backward(grad_out: Tensor, needs_value: bool, *fields: Any) -> MSDeformAttnGradients:
    """`torch.ops.mmfs.ms_deform_attn_backward`, under every transform; value's gradient is there without need, too."""
    return MSDeformAttnGradients(*MS_DEFORM_ATTN.gradient(1)(grad_out, *fields))


def mmfs_attention(*fields: Any) -> Tensor:
    """`torch.ops.mmfs.mmfs_attention`, under every transform."""
    return MMFS_ATTENTION(*fields)[0]


def mmfs_attention_backward(
    grad_out: Tensor, needs_value: bool, lse: Tensor | None, *fields: Any
) -> MMFSAttentionGradients:
    """`torch.ops.mmfs.mmfs_attention_backward`, under every transform; value's gradient is there without need, too."""
    arguments = MMFSAttentionArguments(*fields)
    inner = iter(MMFS_ATTENTION.gradient(1)(grad_out, *fields))
    absent = arguments.value.new_empty(0)
    names = MMFSAttentionGradients._fields
    return MMFSAttentionGradients(*[absent if getattr(arguments, name) is None else next(inner) for name in names])
