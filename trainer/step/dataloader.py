"""The DataLoader of a phase: worker processes make the micro-batches of the steps to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.process.interrupt import ignore_in_worker
from trainer.step.phase import Phase


def micro_batch_loader(
    phase: Phase, rows: Sequence[range], first: int, num_workers: int, *, pin_memory: bool
) -> Iterator[list[Any]]:
    """The micro-batches, one for each of `rows`, of the steps first, first + 1, ... of the phase; `num_workers`
    processes make them ahead, in the same order."""
    return iter(
        DataLoader(
            _Steps(phase.batch, rows),
            sampler=range(first, phase.num_steps),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=ignore_in_worker,
            generator=torch.Generator(),  # else it draws from the global one, and a resumed run would be one draw ahead
        )
    )


class _Steps(Dataset[Any]):
    def __init__(self, batch: Callable[[int, range], Any], rows: Sequence[range]) -> None:
        self._batch = batch
        self._rows = rows

    def __getitem__(self, step: int) -> Any:
        return [self._batch(step, rows) for rows in self._rows]


def _as_it_is(batch: Any) -> Any:
    return batch
