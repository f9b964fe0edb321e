"""The interface to one component, which is the same for every backend.

Letters: B rows of a call: sequences or images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from export.components.component import Component, Port
from export.graph.kv_cache import aliases_of

Tensors = dict[str, Tensor]


class ComponentRunner(ABC):
    """A component that can be called.

    Args:
        name: of the component.
        inputs: its inputs.
        outputs: its outputs.
        device: where both are.

    Outputs named `present_...` share the memory of the inputs that they update (`aliases`): a call changes those
    inputs, which have to be contiguous and of their port's type already.
    """

    def __init__(
        self, name: str, inputs: Mapping[str, Port], outputs: Mapping[str, Port], device: torch.device
    ) -> None:
        self.name = name
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self.aliases = aliases_of(self.outputs)
        self.device = device

    def most(self, axis: str) -> int | None:
        """The largest length of a dynamic axis; None: any."""
        return None

    def num_rows(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """Least and most rows that one run with these inputs may have."""
        return 1, 2**31

    def for_recording(self) -> ComponentRunner:
        """A runner of the same component for one recording (`Recorded`); what a CUDA graph refers to is its own."""
        return self

    def __call__(self, **given: Tensor) -> Tensors:
        """Outputs by name.

        Inputs that the component does not have are left out, e.g. `visible` without MMFS. More rows than one run takes
        are run one after another, fewer are padded with copies of the last one.
        """
        inputs = {name: given[name].to(self.device, port.dtype).contiguous() for name, port in self.inputs.items()}
        first = next(iter(self.inputs))
        num_rows, axis = len(inputs[first]), self.inputs[first].shape[0]
        of_rows = [name for name, port in self.inputs.items() if port.shape[0] == axis]
        least, most = self.num_rows(inputs)
        if least <= num_rows <= most:
            return self.run(inputs)
        found = []
        for start in range(0, num_rows, most):
            here = {name: inputs[name][start : start + most] for name in of_rows}
            size = len(here[first])
            if size < least:
                if self.aliases:
                    raise ValueError(
                        f"{self.name} got {size} rows and takes {least} or more; rows that are written in place cannot "
                        "be filled up. Build its engine for fewer."
                    )
                here = {
                    name: torch.cat([rows, rows[-1:].expand(least - size, *rows.shape[1:])])
                    for name, rows in here.items()
                }
            found.append({name: rows[:size] for name, rows in self.run({**inputs, **here}).items()})
        return {
            name: inputs[self.aliases[name]]
            if name in self.aliases
            else torch.cat([outputs[name] for outputs in found])
            for name in self.outputs
        }

    @abstractmethod
    def run(self, inputs: Tensors) -> Tensors:
        """The outputs, for exactly these inputs: contiguous, of the declared types, on `device`."""

    def empty_outputs(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Memory for the outputs of a run; for outputs that are written in place, that of the input."""
        sizes = axis_lengths(self.inputs, inputs)
        return {
            name: inputs[self.aliases[name]]
            if name in self.aliases
            else torch.empty([_length(axis, sizes) for axis in port.shape], dtype=port.dtype, device=self.device)
            for name, port in self.outputs.items()
        }


class TorchRunner(ComponentRunner):
    """A component as PyTorch computes it.

    Args:
        component: which; its module moves to the device.
        device: where to run it.
        dtype: of the model.
    """

    def __init__(self, component: Component, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        inputs, outputs = (
            {name: _of_type(port, dtype, name in component.float32_in_pytorch) for name, port in ports.items()}
            for ports in (component.inputs, component.outputs)
        )
        super().__init__(component.name, inputs, outputs, device)
        self.component = component
        component.module.to(device)

    def run(self, inputs: Tensors) -> Tensors:
        return self.component.run(inputs)


def _of_type(port: Port, dtype: torch.dtype, stays_float32: bool) -> Port:
    return replace(port, dtype=dtype) if port.dtype.is_floating_point and not stays_float32 else port


def axis_lengths(ports: Mapping[str, Port], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Lengths of the dynamic axes.

    Raises:
        ValueError: a tensor does not have its port's shape, or two disagree on an axis.
    """
    sizes: dict[str, int] = {}
    for name, port in ports.items():
        shape = tensors[name].shape
        fits = len(shape) == len(port.shape) and all(
            length == (sizes.setdefault(axis, length) if isinstance(axis, str) else axis)
            for axis, length in zip(port.shape, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {list(shape)}. Expected {list(port.shape)}, with {sizes}.")
    return sizes


def _length(axis: int | str, sizes: Mapping[str, int]) -> int:
    """The length of an output's axis: a number, an input's axis, or a multiple of one, as in "2*batch"."""
    if isinstance(axis, int):
        return axis
    factor, times, name = axis.rpartition("*")
    return sizes[name] * (int(factor) if times else 1)
