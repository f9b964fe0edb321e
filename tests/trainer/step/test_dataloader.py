"""Micro-batches that workers make ahead."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.step.dataloader import micro_batch_loader
from trainer.step.phase import Phase


@dataclass(frozen=True)
class Item:
    values: Tensor


@dataclass(frozen=True)
class Recorded:
    """Makes a micro-batch that says what it is, and leaves a line for it."""

    log: Path
    broken_step: int = -1
    slow_step: int = -1

    def __call__(self, step: int, rows: range) -> Item:
        if step == self.broken_step:
            raise KeyError("a broken step")
        if step == self.slow_step:
            time.sleep(2)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"made\n")
        os.close(descriptor)
        return Item(torch.tensor([step, rows.start, rows.stop]))

    def count(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


ROWS = [range(0, 2), range(2, 4), range(4, 5)]


def phase(batch: Recorded, num_steps: int = 20) -> Phase:
    return Phase("main", 1, nn.Identity(), batch, 5, len, dict, len, num_steps, None)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_steps_come_in_order_from_any_step_on(tmp_path, num_workers):
    made = Recorded(tmp_path / "made")
    num_threads = torch.get_num_threads()
    with micro_batch_loader(phase(made, 6), ROWS, 2, num_workers, pin_memory=False) as steps:
        items = [item for step in steps for item in step]
    assert [item.values.tolist() for item in items] == [
        [step, rows.start, rows.stop] for step in range(2, 6) for rows in ROWS
    ]
    assert not any(item.values.is_shared() for item in items)
    assert torch.get_num_threads() == num_threads


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_are_a_step_and_two_micro_batches_ahead(tmp_path, num_workers):
    """One step is in this process's own memory; in shared memory each worker has two at most."""
    made = Recorded(tmp_path / "made")
    with micro_batch_loader(phase(made), ROWS, 0, num_workers, pin_memory=False) as steps:
        next(steps)
        ahead = 2 * len(ROWS) + 2 * num_workers
        limit = time.monotonic() + 20
        while made.count() < ahead and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)  # would they make more?
        assert made.count() == ahead


def test_what_a_worker_fails_with_is_told_in_its_step(tmp_path):
    made = Recorded(tmp_path / "made", broken_step=2)
    with micro_batch_loader(phase(made), ROWS, 0, 2, pin_memory=False) as steps:
        for _ in range(2):
            assert len(next(steps)) == len(ROWS)
        with pytest.raises(KeyError, match="a broken step"):
            next(steps)
    assert not multiprocessing.active_children()  # though the error is still told to who asks again


def test_the_end_does_not_wait_for_a_worker_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.step.dataloader.CLOSING_S", 0.01)
    made = Recorded(tmp_path / "made", slow_step=1)
    with micro_batch_loader(phase(made, 2), ROWS, 0, 1, pin_memory=False) as steps:
        next(steps)
        [thread] = [thread for thread in threading.enumerate() if thread.name == "data"]
    assert made.count() == len(ROWS)  # the worker is still at its first item of the slow step
    thread.join()
