"""A process's share of a batch: cut into micro-batches that run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UsageError
from trainer.process.distributed import Processes
from trainer.process.interrupt import Stop
from trainer.step.fsdp import ParallelModule
from trainer.step.phase import Phase
from trainer.step.training_state import random_states, set_random_states


def rows_of_micro_batches(num_rows: int, micro_batch_rows: int, processes: Processes) -> list[range]:
    """This process's share of the rows of every batch, cut into micro-batches of at most `micro_batch_rows` (0: one).

    Raises:
        UsageError: the processes cannot have equal shares.
    """
    if num_rows % processes.num:
        possible = [num for num in range(1, num_rows + 1) if num_rows % num == 0]
        raise UsageError(
            f"{processes.num} processes cannot share a batch of {num_rows} rows equally. Possible numbers of "
            f"processes: {', '.join(map(str, possible))}; or change the number of rows (data.num_rows or "
            "corpus.num_rows; encoder_pretraining.images_per_step in that phase), which changes what is learned."
        )
    each = num_rows // processes.num
    size = micro_batch_rows or each
    return [
        range(num_rows)[start : start + size]
        for start in range(processes.rank * each, (processes.rank + 1) * each, size)
    ]


def run_micro_batches(
    phase: Phase,
    parallel: ParallelModule,
    micro_batches: Sequence[Any],
    counts: Sequence[int],
    device: torch.device,
    stop: Callable[[], Stop | None],
) -> dict[str, Tensor | None] | Stop:
    """Forward and backward of this process's share; returns its contributions to the logged values.

    Or what `stop` said between two micro-batches. Then it is as if the step had not begun, since a step of many
    micro-batches may last longer than the time that a batch system leaves after its signal.
    """
    random_before = random_states() if len(micro_batches) > 1 else {}
    sums: dict[str, Tensor | None] = {}
    parallel.gather()
    for number, batch in enumerate(micro_batches):
        if number > 0 and (reason := stop()) is not None:
            parallel.abandon()
            set_random_states(random_before)
            return reason
        for name, value in phase.accumulate(parallel.module, batch.to(device, non_blocking=True), counts).items():
            before = sums.get(name)
            sums[name] = value if before is None or value is None else before + value
    parallel.reduce()
    return sums
