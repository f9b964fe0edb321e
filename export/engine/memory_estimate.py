"""How much memory a deployment takes, before anything is traced or built: `--dry-run`.

Weights, cache, bank, inputs and outputs are exact. Activations are those of PyTorch at the largest sizes, one operator
after the other. An engine may ask for more: TensorRT-RTX 1.7 asked for 7 to 26 MB more than that for the
components of the toy model. The manifest has the true figure once an engine is built. For building, TensorRT's users
report up to four times the weights in the host's memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.components.component import Component, Port
from export.components.profiles import Limits
from export.engine.profiles import profiles_of

BUILD_FACTOR = 4


@dataclass(frozen=True)
class Memory:
    """Of one component at the largest sizes, in bytes."""

    weights: int
    cache: int
    """Past keys and values."""

    bank: int
    """Projected features of images, which MMFS samples."""

    ports: int
    """All other inputs, and the outputs."""

    activations: int
    """Intermediate results."""

    def in_half(self) -> Memory:
        """With weights, cache and bank in 16 bits. Ports and activations are counted in 32: some nodes need that."""
        return replace(self, weights=self.weights // 2, cache=self.cache // 2, bank=self.bank // 2)

    def in_eight_bits(self, matrices: Iterable[Tensor], itemsize: int) -> Memory:
        """With these weights, each [outputs, inputs], in eight bits and a scale per output; until now each of their
        numbers takes `itemsize` bytes."""
        saved = sum(matrix.numel() * (itemsize - 1) - len(matrix) * itemsize for matrix in matrices)
        return replace(self, weights=self.weights - saved)

    @property
    def building(self) -> int:
        """Of the host, while the engine is built."""
        return BUILD_FACTOR * self.weights


@torch.no_grad()
def memory_of(component: Component, limits: Limits) -> Memory:
    """What a component takes; it is run on tensors without data."""
    profiles = profiles_of(component.name, component.input_shapes(), limits)
    largest = {axis: max(profile.axes[axis][2] for profile in profiles) for axis in profiles[0].axes}
    if "batch" in largest:
        largest["2*batch"] = 2 * largest["batch"]
    sizes = {name: _num_bytes(port, largest) for name, port in component.inputs.items()}
    cache = sum(size for name, size in sizes.items() if component.inputs[name].role == "cache")
    bank = sum(size for name, size in sizes.items() if component.inputs[name].role == "bank")
    outputs = sum(_num_bytes(port, largest) for port in component.outputs.values())
    with FakeTensorMode(allow_non_fake_inputs=True), Meter() as meter:
        inputs = [torch.zeros(_shape(port, largest), dtype=port.dtype) for port in component.inputs.values()]
        meter.reset_peak()
        results = component.module(*inputs)
        peak = meter.peak - sum(sizes.values()) - outputs
        del inputs, results
    return Memory(
        weights=sum(meter.weights.values()),
        cache=cache,
        bank=bank,
        ports=sum(sizes.values()) - cache - bank + outputs,
        activations=max(0, peak),
    )


class Meter(TorchDispatchMode):
    """Counts the bytes of all tensors that operators make while it is on, and of all others that they read."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.weights: dict[int, int] = {}
        """Bytes of what was there before, by address."""

        self._made: weakref.WeakKeyDictionary[UntypedStorage, int] = weakref.WeakKeyDictionary()

    def reset_peak(self) -> None:
        """Forget the peak so far, and what was read."""
        self.peak = self.live
        self.weights.clear()

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """One operator."""
        options = options or {}
        result = function(*arguments, **options)
        for tensor in _tensors_in((arguments, options)):
            if tensor.untyped_storage() not in self._made:
                self.weights[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        for tensor in _tensors_in(result):
            storage = tensor.untyped_storage()
            if storage not in self._made:
                # A view of a weight takes no new memory, though without data it has its own storage.
                num_bytes = 0 if function.is_view else storage.nbytes()
                self._made[storage] = num_bytes
                self.live += num_bytes
                weakref.finalize(storage, self._free, num_bytes)
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, num_bytes: int) -> None:
        self.live -= num_bytes


def report(memories: Mapping[str, Memory], limits: Limits) -> list[str]:
    """A table in MB, and what a GPU has to hold while all engines are loaded: a line each."""
    columns = ("weights", "cache", "bank", "ports", "activations", "building")
    lines = [f"{'MB at the largest sizes':24}" + "".join(f"{name:>13}" for name in columns)]
    for name, memory in memories.items():
        lines.append(f"{name:24}" + "".join(f"{getattr(memory, column) / 1e6:13.1f}" for column in columns))
    lines.append(
        f"largest: batch {limits.max_batch}, {limits.max_tokens} new tokens, {limits.max_past} cached, "
        f"{limits.max_images} images"
    )
    lines.append(
        f"on the GPU with all engines loaded: {gpu_bytes(memories) / 1e6:.1f} MB, of the host to build one: "
        f"{max(memory.building for memory in memories.values()) / 1e6:.1f} MB"
    )
    return lines


def gpu_bytes(memories: Mapping[str, Memory]) -> int:
    """All weights, caches and banks, and the largest working memory, which only the running engine needs."""
    kept = sum(memory.weights + memory.cache + memory.bank for memory in memories.values())
    return kept + max(memory.ports + memory.activations for memory in memories.values())


def _tensors_in(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _shape(port: Port, axes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else axes[size] for size in port.shape)


def _num_bytes(port: Port, axes: Mapping[str, int]) -> int:
    return math.prod(_shape(port, axes)) * port.dtype.itemsize
