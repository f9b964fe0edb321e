"""One training of a run, as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.step.starting_weights import Stored


class TrainingBatch(Protocol):
    """What a phase trains on."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> TrainingBatch: ...


@dataclass(frozen=True)
class Phase:
    """One training of a run: what learns, from what, for how long."""

    name: str
    index: int
    module: nn.Module
    batch: Callable[[int, range], Any]
    """Step number and neighbouring rows of its batch to TrainingBatch; a pure function."""

    num_rows: int
    """Rows of a batch, which processes and micro-batches share."""

    counts: Callable[[Any], Sequence[int]]
    """A batch on the CPU to what its losses are divided by; counts add up over micro-batches and processes."""

    accumulate: Callable[[Any, Any, Sequence[int]], Mapping[str, Tensor | None]]
    """Module, batch and the counts of the whole step: adds gradients to `.grad`, and returns what the batch contributes
    to the values that the log keeps. None: nothing, by the counts, so that it is None for all batches of the step."""

    size: Callable[[Any], tuple[int, int]]
    """A batch on the CPU to its numbers of tokens and images."""

    num_steps: int
    optim: OptimConfig
    ema_decay: float = 0.0
    frozen: tuple[str, ...] = ()
    """Submodules of `module` that stay as they are in this phase, by their dotted names."""

    stack: nn.Module | None = None
    """A submodule of `module` that every micro-batch passes through once, whatever is in it, forward and backward, and
    so through each of its `layers`. None: there is none."""

    stored: Stored = field(default_factory=dict)
    """The parameters of `module`, among others, whose numbers are still in files; they are removed from it once they
    are read."""

    flops: Callable[[], Callable[[Sequence[int], int], float]] | None = None
    """Makes, in seconds, the function from the counts of a step and its number of images to the operations of the
    model; only called where somebody wants to know. None: nobody can."""

    read_and_broken: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """How many samples and images this process has read from files, and how many of them were broken."""

    documents: Callable[[int], list[str]] = lambda step: []
    """Step number to the keys of the documents in its batch; what stands before the first slash is their source."""

    sample: Callable[[int, Callable[[], bool]], None] | None = None
    """Shows what the module, in evaluation mode, makes after so many steps; the first process alone calls it. The
    second argument tells in between whether to leave it, since the run is to stop."""
