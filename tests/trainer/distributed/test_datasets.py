"""The losses of a mixture's parts with two processes, compared with one that takes the batch whole."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import processes
from models import MMInterleaved
from trainer.data.stream import Stream
from trainer.process.distributed import joined
from trainer.recipes import tiny
from trainer.step.accumulate import Chunks
from trainer.step.loop import to_host
from trainer.step.losses import StepLosses
from trainer.step.micro_batches import rows_of_micro_batches


def make_a_step(file: Path, micro_batch_rows: int) -> int:
    """What the log would get of a step of four rows; the first process writes it."""
    torch.manual_seed(0)
    config = tiny()
    data = replace(config.data, num_rows=4, tasks={"story": 1.0, "draw": 1.0, "read": 0.0})
    stream, model = Stream(data, config.model, seed=0), MMInterleaved(config.model).train()
    losses = StepLosses(Chunks(images=1), torch.float32, stream.datasets)
    with joined(torch.device("cpu")) as ours:
        parts = [stream.part(3, rows) for rows in rows_of_micro_batches(4, micro_batch_rows, ours)]
        counts = ours.all_reduce_sum([sum(column) for column in zip(*map(losses.counts, parts), strict=True)])
        sums: dict[str, torch.Tensor] = {}
        for part in parts:
            for name, value in losses.accumulate(model, part, counts).items():
                sums[name] = value + sums.get(name, 0)  # this step has something of everything
        values = to_host(sums, torch.zeros(()), ours)
        if ours.is_first:
            file.write_text(json.dumps({"counts": counts, **values}))
    return 0


@pytest.mark.slow  # starts of Python and torch
def test_two_processes_have_the_losses_of_one(tmp_path):
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    assert make_a_step(alone, 0) == 0
    assert processes.run(partial(make_a_step, shared, 1), 2) == [0, 0]
    expected, values = json.loads(alone.read_text()), json.loads(shared.read_text())
    names = [f"{kind}/{task}" for kind in ("loss_text", "loss_image") for task in ("story", "draw")]
    assert [name for name in values if "/" in name] == names
    num_targets, num_drawn, *apart = values["counts"]
    assert min(apart) > 0
    assert (sum(apart[:2]), sum(apart[2:])) == (num_targets, num_drawn)
    for name in ("counts", "loss", *names):
        assert values[name] == pytest.approx(expected[name], rel=1e-6), name
    together = sum(values[name] * count for name, count in zip(names[:2], apart[:2], strict=True)) / num_targets
    assert together == pytest.approx(values["loss_text"], rel=1e-6)
