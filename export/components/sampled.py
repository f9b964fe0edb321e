"""Components that also say what their MMFS layers ask of the op: from it, and from tables that are the same in every
call, a runtime tells where they sample.

Letters: B rows of a batch, Q queries, H heads, L levels, P points, A ages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from export.components.component import FLOAT, Component, Port
from mmfs.arguments import MMFSAttentionArguments
from models.component_configs import SynchronizerConfig
from models.sampling_recorder import SamplingRecorder

OFFSETS, LOGITS = "sampling_offsets", "attention_logits"
"""Beginnings of the outputs' names: fields of the op's arguments."""

TABLES = ("reference_points", "offset_table", "logit_table")
"""What is the same in every call: fields of the op's arguments."""


class Recording(nn.Module):
    """A module and, as further outputs, the offsets [B, Q, H, P, 2] and then the logits [B, Q, H, L, P] of each of its
    synchronizers.

    Args:
        module: takes tensors, and `recorder`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the module returns, and what is recorded."""
        outputs, recorded = self.recorded(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return (
            *outputs,
            *(one.sampling_offsets for one in recorded),
            *(one.attention_logits for one in recorded),
        )

    def recorded(self, *inputs: Tensor) -> tuple[Any, tuple[MMFSAttentionArguments, ...]]:
        """What the module returns, and all that its synchronizers ask of the op."""
        recorder = SamplingRecorder().begin()
        return self.module(*inputs, recorder=recorder), recorder.take()


def with_sampling(component: Component) -> Component:
    """A component with these outputs; itself if it has no synchronizers."""
    if not component.num_synchronizers:
        return component
    module = Recording(component.module)
    recorded = _trial(component, module)
    axes = component.outputs[next(iter(component.outputs))].shape[:1]
    offsets, logits = (
        {f"{name}_{j}": Port(FLOAT, (*axes, *_sizes(component, getattr(one, name)))) for j, one in enumerate(recorded)}
        for name in (OFFSETS, LOGITS)
    )
    return replace(component, module=module, outputs={**component.outputs, **offsets, **logits})


def _sizes(component: Component, tensor: Tensor) -> tuple[int | str, ...]:
    """All axes but the batch's: tokens are queries in a language model, and a U-Net has a fixed number of them."""
    sizes: list[int | str] = list(tensor.shape[1:])
    if component.writes_text:
        sizes[0] = "tokens"
    return tuple(sizes)


@torch.no_grad()
def _trial(component: Component, module: Recording) -> tuple[MMFSAttentionArguments, ...]:
    """What its synchronizers ask of the op in a call with the inputs that it is traced with, in the type of its
    weights."""
    weight = next(module.parameters())
    inputs = (
        tensor.to(weight.device, weight.dtype)
        if tensor.is_floating_point() and name not in component.float32_in_pytorch
        else tensor.to(weight.device)
        for name, tensor in zip(component.inputs, component.trace_inputs(), strict=True)
    )
    _, recorded = module.recorded(*inputs)
    return recorded


def sampling_tables(component: Component) -> dict[str, Tensor]:
    """Of a component that records, for each of its synchronizers what is the same in every call, by
    "COMPONENT.NUMBER.FIELD"."""
    module = component.module
    assert isinstance(module, Recording), f"{component.name} records nothing"
    recorded = _trial(component, module)
    return {
        f"{component.name}.{number}.{field}": getattr(arguments, field).clone()
        for number, arguments in enumerate(recorded)
        for field in TABLES
    }


def stays_float32(name: str) -> bool:
    """Whether an output is float32 in every precision: locations are."""
    return name.startswith(f"{OFFSETS}_")


def of_sampling(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that say what MMFS asks of the op."""
    return {name: tensor for name, tensor in outputs.items() if name.startswith((f"{OFFSETS}_", f"{LOGITS}_"))}


def arguments_of(
    outputs: Mapping[str, Tensor],
    tables: Mapping[str, Tensor],
    component: str,
    visible: Tensor,
    mmfs: SynchronizerConfig | None,
    select: Callable[[Tensor], Tensor],
) -> tuple[MMFSAttentionArguments, ...]:
    """What each synchronizer asked of the op in a call, as `models.sampling_recorder` has it.

    Args:
        outputs: of the component.
        tables: of `sampling_tables`.
        component: its name.
        visible: int64 [rows, queries or 1, 2], what each query sees.
        mmfs: of the synchronizers.
        select: takes an output [B, Q, ...] and returns the [rows, queries, ...] that are asked about.
    """
    found: list[MMFSAttentionArguments] = []
    while (name := f"{OFFSETS}_{len(found)}") in outputs:
        number = len(found)
        points, offset_table, logit_table = (tables[f"{component}.{number}.{field}"] for field in TABLES)
        offsets, logits = select(outputs[name]), select(outputs[f"{LOGITS}_{number}"])
        found.append(
            MMFSAttentionArguments(
                torch.empty(0),
                (),
                points,
                offsets,
                logits,
                visible.expand(*offsets.shape[:2], 2),
                offset_table,
                logit_table.to(logits.dtype),
                0.0 if mmfs is not None and mmfs.null else None,
            )
        )
    return tuple(found)
