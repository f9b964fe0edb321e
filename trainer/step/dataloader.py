"""The DataLoader of a phase: worker processes make the micro-batches of the steps to come, one at a time."""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.process.interrupt import ignore_in_worker
from trainer.step.phase import Phase

CLOSING_S = 5.0
"""How long the end of a phase waits for a micro-batch that is still being made."""


@contextmanager
def micro_batch_loader(
    phase: Phase, rows: Sequence[range], first: int, num_workers: int, *, pin_memory: bool
) -> Iterator[Iterator[list[Any]]]:
    """The micro-batches, one for each of `rows`, of the steps first, first + 1, ... of the phase.

    `num_workers` processes make them ahead, in the same order, a micro-batch at a time: a worker has at most two in
    shared memory that nobody has taken yet, and a third may be on its way out. This process takes them from there into
    memory of its own (page-locked with `pin_memory`), which holds those of one step ahead of the one that it computes.
    With 0 workers, each step is made when it is asked for.
    """
    loader = DataLoader(
        _MicroBatches(phase.batch, rows),
        sampler=range(first * len(rows), phase.num_steps * len(rows)),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=ignore_in_worker,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would be one draw ahead
    )
    if num_workers == 0:
        yield _grouped(iter(loader), len(rows))
        return
    ahead = _Ahead(iter(loader), len(rows), is_shared=not pin_memory)
    try:
        yield _grouped(ahead, len(rows))
    finally:
        ahead.close()


class _Ahead:
    """What an iterator gives, taken from it by a thread while others work.

    Args:
        items: of a DataLoader with workers.
        num_ahead: how many are taken before they are asked for.
        is_shared: the items are in shared memory, which is free again as soon as they are copied.
    """

    def __init__(self, items: Iterator[Any], num_ahead: int, *, is_shared: bool) -> None:
        self._taken: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._room = threading.Semaphore(num_ahead)
        self._is_closed = False
        self._thread = threading.Thread(target=self._take, args=(items, is_shared), name="data", daemon=True)
        self._thread.start()

    def _take(self, items: Iterator[Any], is_shared: bool) -> None:
        torch.set_num_threads(1)  # of this thread alone, as the DataLoader's own threads do: the others are computing
        error: BaseException = StopIteration()
        try:
            while self._room.acquire() and not self._is_closed:
                item = next(items)
                self._taken.put((copy.deepcopy(item) if is_shared else item, None))
                del item
        except BaseException as raised:
            traceback.clear_frames(raised.__traceback__)  # they hold the iterator, and with it the worker processes
            error = raised
        finally:
            del items
        self._taken.put((None, error))

    def __iter__(self) -> _Ahead:
        return self

    def __next__(self) -> Any:
        item, error = self._taken.get()
        if error is not None:
            self._taken.put((None, error))  # to be told again to who asks again
            raise error
        self._room.release()
        return item

    def close(self) -> None:
        """Take no more."""
        self._is_closed = True
        self._room.release()
        self._thread.join(CLOSING_S)


def _grouped(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(items, size)):
        yield group


class _MicroBatches(Dataset[Any]):
    def __init__(self, batch: Callable[[int, range], Any], rows: Sequence[range]) -> None:
        self._batch = batch
        self._rows = rows

    def __getitem__(self, number: int) -> Any:
        step, place = divmod(number, len(self._rows))
        return self._batch(step, self._rows[place])


def _as_it_is(batch: Any) -> Any:
    return batch
