"""A component: a module with plain tensors in and out, whose inputs, outputs and dynamic axes are declared once.

Tracing inputs, the checks and the manifest come from the declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

FLOAT, INT = torch.float32, torch.int64

TRACE_SIZES = {"batch": 2, "tokens": 3, "past": 5, "images": 4, "context": 7}
"""Axis lengths while tracing: different from each other and from 0 and 1, so that none is mistaken for a constant."""


@dataclass(frozen=True)
class Port:
    """One input or output: an integer is a fixed length, a name a dynamic axis."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    role: Literal["plain", "cache", "bank"] = "plain"
    """"cache": keys or values of earlier tokens. "bank": projected features of images, which MMFS samples."""


@dataclass(frozen=True)
class Tolerances:
    """How far an exported component may be from PyTorch."""

    relative_error: float = 1e-4
    """In float32: the largest relative error of any element."""

    times_eager: float = 2.0
    """In half precision: how much larger than PyTorch's own the error of a graph may be."""

    cosine: float = 0.9995
    """In half precision: the least between a result and PyTorch's in float32."""

    norm: float = 5e-3
    """In half precision: the largest relative change of a result's length as a vector."""


@dataclass(frozen=True)
class Component:
    """One component of a model."""

    name: str
    module: nn.Module
    """Takes the inputs in order, returns the outputs in order (one tensor, or a tuple)."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    num_synchronizers: int = 0
    """How many `mmfs::MMFS` nodes the graph has to have."""

    num_deformable_attentions: int = 0
    """How many `mmfs::MSDeformAttn` nodes the graph has to have."""

    num_cached_attentions: int = 0
    """How many nodes of attention over a cache the neutral graph has to have."""

    writes_text: bool = False
    """Whether it predicts the next token: then greedy continuations are checked too."""

    float32_in_pytorch: frozenset[str] = frozenset()
    """Inputs that the module takes in float32 even where its weights are in half precision."""

    tolerances: Tolerances = field(default_factory=Tolerances)

    def input_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of every input, with the names of dynamic axes."""
        return {name: port.shape for name, port in self.inputs.items()}

    def dynamic_axes(self) -> set[str]:
        """Names of the axes that may change from call to call."""
        return {axis for port in self.inputs.values() for axis in port.shape if isinstance(axis, str)}

    def trace_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the declared types and of `TRACE_SIZES`; zero is a valid index, length and range everywhere."""
        generator = torch.Generator().manual_seed(0)

        def example(port: Port) -> Tensor:
            shape = [TRACE_SIZES[axis] if isinstance(axis, str) else axis for axis in port.shape]
            if port.dtype.is_floating_point:
                return torch.rand(shape, generator=generator, dtype=port.dtype)
            return torch.zeros(shape, dtype=port.dtype)

        return tuple(example(port) for port in self.inputs.values())

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What PyTorch computes."""
        outputs = self.module(*(inputs[name] for name in self.inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self.outputs, outputs, strict=True))
