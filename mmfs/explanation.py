"""`mmfs.explain`: who computes a call, how, and why. Nothing is computed.

The answer comes from the code that decides: the compiled kernel is asked for its strategy, and the launches on a GPU
are those of kernels/calls.py, made for tensors without memory on a device that only records them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmfs import compiled, cuda, functional
from mmfs.arguments import MMFSAttentionArguments, MSDeformAttnArguments
from mmfs.autograd import implementation
from mmfs.kernels import calls
from mmfs.kernels.arguments import KernelArguments
from mmfs.kernels.launch import cuda_device
from mmfs.kernels.plan import VECTOR_BYTES, Launch
from mmfs.kernels.value_gradient import plan_value_gradient
from mmfs.plurals import counted
from mmfs.reference import accumulation_dtype


def explain(op: Callable[..., Tensor], *arguments: Any, **options: Any) -> str:
    """Which backend computes a call, by which strategy, and why.

        print(mmfs.explain(mmfs.ms_deform_attn, value, spatial_shapes, sampling_locations, attention_weights))

    Args:
        op: `mmfs.ms_deform_attn` or `mmfs.mmfs_attention`.
        arguments, options: as op takes them.

    Returns:
        A few lines: which backend computes, how it computes forward and backward, and why no other backend does.

    Raises:
        ValueError, TypeError: as the call itself; op is neither of the two.
    """
    call: MSDeformAttnArguments | MMFSAttentionArguments
    if op is functional.ms_deform_attn:
        given = bound(op, arguments, options)
        backend = given.pop("backend")
        call = functional.checked_ms_deform_attn(**given)
    elif op is functional.mmfs_attention:
        given = bound(op, arguments, options)
        backend = given.pop("backend")
        given["spatial_shapes"], given["image_shapes"] = functional.sizes_of(given["spatial_shapes"])
        call = functional.checked_mmfs_attention(MMFSAttentionArguments(**given))
    else:
        name = getattr(op, "__name__", type(op).__name__)  # a layer has no __name__, and its repr is long
        raise TypeError(f"op is {name}. Expected mmfs.ms_deform_attn or mmfs.mmfs_attention.")
    value = call.value
    if functional.choose(backend, value) == "reference":
        who, lines = "plain PyTorch (mmfs/reference.py)", ["because of backend='reference'"]
    else:
        computes = implementation(value)
        if computes is cuda:
            deterministic = torch.are_deterministic_algorithms_enabled()
            device = cuda_device(cuda.device_index(value.device))
            who = "the CUDA kernels"
            lines = of_cuda(call, device.num_sms, device.shared_bytes, deterministic)
        elif computes is compiled:
            who, lines = f"the compiled CPU kernel, {compiled.best_instruction_set()}", of_compiled(call)
        else:
            who, lines = "PyTorch's embedding_bag (mmfs/embedding_bag.py)", of_embedding_bag(value)
        reasons = {"the CUDA kernels": cuda.why_not(value), "the compiled CPU kernel": compiled.why_not(value)}
        lines += [f"not {name}: {reason}" for name, reason in reasons.items() if reason is not None]
    heading = f"{op.__name__}, value {list(value.shape)} {value.dtype} on {value.device}: {who}"
    return "\n  ".join([heading, *lines])


def bound(op: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name, defaults among them."""
    call = inspect.signature(op).bind(*arguments, **options)
    call.apply_defaults()
    return call.arguments


# ---------------------------------------------------------------------------------------------------------------------
# On a CPU


def of_compiled(call: MSDeformAttnArguments | MMFSAttentionArguments) -> list[str]:
    if isinstance(call, MSDeformAttnArguments):
        forward, backward = (compiled.ms_deform_attn_strategy(call, is_forward=way) for way in (True, False))
    else:
        forward, backward = (compiled.mmfs_attention_strategy(call, is_forward=way) for way in (True, False))
    value = call.value
    if backward.gradient_in_place:
        gradient = "gradient of value summed in place, because few rows have one"
    else:
        gradient = f"gradient of value summed in padded {accumulation_dtype(value.dtype)} rows, then written"
    order = "the same bits in every call"
    if not torch.are_deterministic_algorithms_enabled():
        order += " on as many threads"
    lines = [f"forward: {work(forward)}; {reading(forward)}", f"backward: {work(backward)}; {gradient}; {order}"]
    if (slower := compiled.why_slower()) is not None:
        lines.append(f"not as fast as there could be: {slower}")
    return lines


def work(strategy: compiled.Strategy) -> str:
    return f"{counted(strategy.num_pieces, 'piece')} of work on {counted(strategy.num_threads, 'thread')}"


def reading(strategy: compiled.Strategy) -> str:
    ways = [
        (strategy.num_packed, "from a packed copy of the head (a row is read more than twice)"),
        (strategy.num_in_place, "in place (a row is read at most twice)"),
        (
            strategy.num_staged,
            "each through a padded copy (a row is read at most twice, and needs conversion or padding)",
        ),
    ]
    used = [
        way if count == strategy.num_pieces else f"in {counted(count, 'piece')} {way}" for count, way in ways if count
    ]
    return f"rows of value are read {', '.join(used) or 'nowhere'}"


def of_embedding_bag(value: Tensor) -> list[str]:
    lines = ["sums of rows, in chunks of queries that fit the cache; the gradient of value by sorting"]
    if accumulation_dtype(value.dtype) != value.dtype:
        lines.append(f"value is copied to {accumulation_dtype(value.dtype)} first, to sum in it")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# On a GPU


SUMMATIONS = {
    "atomic": "by atomic additions, whose order is not fixed,",
    "map": "by blocks that own a part of a map in shared memory, in a fixed order,",
    "dense": "as a product of matrices on tensor cores, in a fixed order,",
}


class RecordingDevice:
    """A device that computes nothing: it records the launches, and the arguments of the last one."""

    def __init__(self, num_sms: int, shared_bytes: int) -> None:
        self.num_sms = num_sms
        self.shared_bytes = shared_bytes
        self.launches: list[Launch] = []
        self.arguments: KernelArguments | None = None

    def launch(self, launch: Launch, arguments: KernelArguments) -> None:
        self.launches.append(launch)
        self.arguments = arguments


def of_cuda(
    call: MSDeformAttnArguments | MMFSAttentionArguments, num_sms: int, shared_bytes: int, deterministic: bool
) -> list[str]:
    """What launches on a GPU with so many multiprocessors, and so much shared memory for a block."""
    tensors: dict[str, Any] = {
        name: without_memory(field) for name, field in call._asdict().items() if isinstance(field, Tensor)
    }
    call = call._replace(**tensors)
    forward, backward = RecordingDevice(num_sms, shared_bytes), RecordingDevice(num_sms, shared_bytes)
    value = call.value
    weights = call.attention_logits if isinstance(call, MMFSAttentionArguments) else call.attention_weights
    grad_out = value.new_empty(*weights.shape[:2], value.shape[-2] * value.shape[-1])
    if isinstance(call, MMFSAttentionArguments):
        calls.mmfs_attention_forward(forward, call)
        calls.mmfs_attention_backward(backward, grad_out, call, needs_value=True, deterministic=deterministic)
    else:
        calls.ms_deform_attn_forward(forward, call)
        calls.ms_deform_attn_backward(backward, grad_out, call, needs_value=True, deterministic=deterministic)

    lines = [f"forward: {launched(launch)}" for launch in forward.launches]
    if len(forward.launches) > 1:
        lines.append(
            f"the samples of a query are split over {forward.launches[0].grid[2]} blocks, because queries and heads "
            f"alone would leave some of the {num_sms} multiprocessors idle; the last launch merges them"
        )
    lines += [f"backward: {launched(launch)}" for launch in backward.launches]
    if backward.arguments is not None:
        plan = plan_value_gradient(
            backward.arguments,
            value.dtype,
            is_mmfs_attention=isinstance(call, MMFSAttentionArguments),
            deterministic=deterministic,
            num_sms=num_sms,
            shared_bytes=shared_bytes,
        )
        lines.append(
            f"gradient of value {SUMMATIONS[plan.way]} in {accumulation_dtype(value.dtype)}, because {plan.reason}"
        )
    if forward.launches:
        vector, lanes, chunks = forward.launches[0].instance.arguments
        lines.append(
            f"a head's {value.shape[-1]} channels on {lanes} lanes, {chunks} x {vector} each; the widest load has "
            f"{vector * value.element_size()} bytes of {VECTOR_BYTES}: channels and alignment allow it"
        )
    return lines or ["nothing to compute"]


def launched(launch: Launch) -> str:
    x, y, z = launch.grid
    return (
        f"{launch.instance.name}, {x} x {y} x {z} blocks of {launch.threads} threads, {launch.shared_bytes} bytes of "
        "shared memory"
    )


def without_memory(tensor: Tensor) -> Tensor:
    """A tensor on the meta device with the same shape, strides, dtype and alignment."""
    offset = tensor.data_ptr() % VECTOR_BYTES // tensor.element_size()
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    memory = torch.empty(offset + max(extent, 0), dtype=tensor.dtype, device="meta")
    return memory.as_strided(tensor.shape, tensor.stride(), offset)
