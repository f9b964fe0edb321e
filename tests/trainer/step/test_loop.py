import gzip
import io
import json
import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader, load

from trainer.config import OptimConfig
from trainer.errors import NonFiniteError
from trainer.logging.log_file import read_log
from trainer.logging.metrics import RunLog
from trainer.process.distributed import joined
from trainer.process.interrupt import Interrupt, Stop
from trainer.recipes import tiny
from trainer.run_files import PROFILE
from trainer.step import checkpoint
from trainer.step.loop import train
from trainer.step.phase import Phase
from trainer.system_config import CheckpointConfig, LoggingConfig, MemoryConfig, ProfileConfig

CPU = torch.device("cpu")
NO_PROFILE = ProfileConfig()


@dataclass(frozen=True)
class Points:
    """y = 3 x + 1 with some x; x may be poisoned."""

    x: Tensor

    def to(self, device, *, non_blocking=False):
        return Points(self.x.to(device))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.1)  # so that the random state matters

    def forward(self, batch: Points) -> Tensor:
        """The sum of the squared errors."""
        return ((self.layer(batch.x) + 0.01 * self.dropout(batch.x) - 3 * batch.x - 1) ** 2).sum()


@dataclass(frozen=True)
class Stream:
    poisoned_steps: tuple[int, ...] = ()

    def __call__(self, step: int, rows: range) -> Points:
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(step))[rows.start : rows.stop]
        return Points(x * math.inf if step in self.poisoned_steps else x)


def accumulate(module, batch, counts):
    loss = module(batch) / counts[0]
    loss.backward()
    return {"loss": loss, "loss_text": None}


def phase(num_steps=60, **options):
    return Phase(
        name="main",
        index=1,
        module=Line(),
        batch=Stream(**options),
        num_rows=8,
        counts=lambda batch: (len(batch.x),),
        accumulate=accumulate,
        size=lambda batch: (0, len(batch.x)),
        num_steps=num_steps,
        optim=OptimConfig(lr=0.2, warmup_steps=2, weight_decay=0.0),
        ema_decay=0.9,
        documents=lambda step: [f"points/{step}/0", f"points/{step}/1", "lines/7"],
    )


def run(
    directory,
    phase_,
    *,
    checkpoint_every=20,
    num_workers=0,
    rows=0,
    skips=0,
    deadline=math.inf,
    start=None,
    sample=0,
    grad_norms_every=0,
    profiled=NO_PROFILE,
):
    config = replace(
        tiny(),
        out=str(directory),
        checkpoint=CheckpointConfig(every=checkpoint_every, keep_latest=9),
        num_workers=num_workers,
        memory=MemoryConfig(micro_batch_rows=rows),
        max_skipped_in_a_row=skips,
        logging=LoggingConfig(sample_every=sample, grad_norms_every=grad_norms_every),
        profile=profiled,
    )
    directory.mkdir(exist_ok=True)
    log = RunLog(directory, log_every=5, stream=io.StringIO())
    try:
        with Interrupt(directory, deadline) as interrupt, joined(CPU) as processes:
            return train(
                phase_,
                config,
                processes=processes,
                device=CPU,
                log=log,
                interrupt=interrupt,
                start=start,
            )
    finally:
        log.close()


def losses(directory):
    """Of every step. Those of a resumed run equal those of an uninterrupted one bit for bit: so docs/training.md."""
    return [record["loss"] for record in read_log(directory) if "event" not in record]


def test_it_learns(tmp_path):
    line = phase()
    outcome = run(tmp_path, line)
    assert (outcome.finished, outcome.step) == (True, 60)
    assert losses(tmp_path)[0] > 1
    assert losses(tmp_path)[-1] < 0.01
    with outcome.average.applied():
        assert line.module.layer.weight.item() == pytest.approx(3, abs=0.3)
    saved = [found.step for found in checkpoint.find_all(tmp_path / "checkpoints")]
    assert saved == [20, 40, 60]
    first = next(read_log(tmp_path))
    assert first["loss_text"] is None
    assert first["lr"] == 0.1  # the first of two warm-up steps


def test_worker_processes_make_the_same_run(tmp_path):
    run(tmp_path / "here", phase(num_steps=5))
    run(tmp_path / "ahead", phase(num_steps=5), num_workers=2)
    torch.testing.assert_close(losses(tmp_path / "ahead"), losses(tmp_path / "here"), rtol=1e-6, atol=1e-6)


def test_a_bad_gradient_stops_before_the_update(tmp_path):
    line = phase(poisoned_steps=(7,))
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, line, checkpoint_every=5)
    newest = checkpoint.find_latest(tmp_path / "checkpoints")
    assert newest.step == 5
    sentences = ("is nan at step 7 of phase 'main'", str(newest.path), "optim.lr", "2 of points, 1 of lines")
    assert all(sentence in str(error.value) for sentence in sentences)
    assert len(losses(tmp_path)) == 7
    assert not (tmp_path / "checkpoints" / "main-0000007").exists()
    skipped = [record for record in read_log(tmp_path) if record.get("event") == "skipped"]
    assert [(record["step"], record["values"]["grad_norm"]) for record in skipped] == [(7, "nan")]
    assert skipped[0]["documents"] == ["points/7/0", "points/7/1", "lines/7"]


@pytest.mark.own_allocator
def test_a_few_bad_gradients_are_skipped(tmp_path):
    line = phase(num_steps=12, poisoned_steps=(3, 4, 8, 9))
    outcome = run(tmp_path, line, skips=2, checkpoint_every=5)
    assert outcome.finished
    assert outcome.average.num_updates == 8
    assert [record["step"] for record in read_log(tmp_path) if "event" not in record] == [1, 2, 3, 6, 7, 8, 11, 12]
    assert torch.isfinite(line.module.layer.weight).all()
    resumed = phase(num_steps=12, poisoned_steps=(3, 4, 8, 9))
    resumed_outcome = run(tmp_path, resumed, skips=2, start=checkpoint.find(tmp_path / "checkpoints" / "main-0000005"))
    assert resumed_outcome.finished
    assert torch.equal(resumed.module.layer.weight, line.module.layer.weight)


def test_bad_gradients_in_a_row_count_over_a_resumption(tmp_path):
    steps = (3, 4, 5)
    with pytest.raises(NonFiniteError, match=r"at step 5.*after 2 skipped before it"):
        run(tmp_path, phase(num_steps=12, poisoned_steps=steps), skips=2, checkpoint_every=5)
    start = checkpoint.find_latest(tmp_path / "checkpoints")
    assert start.step == 5
    with pytest.raises(NonFiniteError, match=r"at step 5.*after 2 skipped before it"):
        run(tmp_path, phase(num_steps=12, poisoned_steps=steps), skips=2, start=start)


def test_a_bad_gradient_before_any_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match="There is no checkpoint yet"):
        run(tmp_path, phase(poisoned_steps=(1,)))
    assert checkpoint.find_latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
def test_micro_batches_make_the_same_update(tmp_path, rows):
    whole, parts = phase(num_steps=5), phase(num_steps=5)
    for either in (whole, parts):
        either.module.dropout.p = 0.0
    run(tmp_path / "whole", whole)
    run(tmp_path / "parts", parts, rows=rows)
    torch.testing.assert_close(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.module.layer.weight, whole.module.layer.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.own_allocator
def test_a_stop_between_micro_batches_leaves_the_step_undone(tmp_path):
    whole = phase(num_steps=8)
    run(tmp_path / "whole", whole, rows=3)
    part = phase(num_steps=8)

    def accumulate_and_stop(module, batch, counts):
        if len(losses(tmp_path / "part")) == 4:
            (tmp_path / "part" / "STOP").touch()
        return accumulate(module, batch, counts)

    outcome = run(tmp_path / "part", replace(part, accumulate=accumulate_and_stop), rows=3)
    assert (outcome.finished, outcome.step, outcome.stop) == (False, 4, Stop.STOP_FILE)
    (tmp_path / "part" / "STOP").unlink()
    resumed = phase(num_steps=8)
    run(tmp_path / "part", resumed, rows=3, start=checkpoint.find(tmp_path / "part"))
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")  # dropout included
    assert torch.equal(resumed.module.layer.weight, whole.module.layer.weight)


def test_the_deadline_pauses_with_a_checkpoint(tmp_path):
    outcome = run(tmp_path, phase(), deadline=time.monotonic())
    assert (outcome.finished, outcome.step, outcome.stop) == (False, 1, Stop.DEADLINE)
    assert checkpoint.find_latest(tmp_path / "checkpoints").step == 1


def test_the_last_step_is_not_a_pause(tmp_path):
    assert run(tmp_path, phase(num_steps=1), deadline=time.monotonic()).finished


def moments_in(path):
    reader = FileSystemReader(path / checkpoint.STATE)
    shapes = {name: about.size for name, about in reader.read_metadata().state_dict_metadata.items()}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith("exp_avg")}
    with joined(CPU):
        load(tensors, storage_reader=reader)
    return tensors.values()


def test_the_gradient_is_clipped_to_its_global_norm(tmp_path):
    line = phase(num_steps=1)
    seen = []
    hook = line.module.layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    optim = replace(line.optim, lr=1.0, max_grad_norm=0.5, warmup_steps=0)
    run(tmp_path, replace(line, optim=optim))
    hook.remove()
    moments = list(moments_in(tmp_path / "checkpoints" / "main-0000001"))
    norm = torch.stack([moment.norm() for moment in moments]).norm().item() / (1 - line.optim.betas[0])
    assert next(read_log(tmp_path))["grad_norm"] > 0.5
    assert norm == pytest.approx(0.5, rel=1e-4)
    assert seen[0].norm() > 0.5


@pytest.mark.own_allocator
def test_resumed_equals_uninterrupted_with_dropout(tmp_path):
    whole = phase(num_steps=8)
    run(tmp_path / "whole", whole, checkpoint_every=3)
    run(tmp_path / "part", phase(num_steps=8), deadline=time.monotonic())
    resumed = phase(num_steps=8)
    torch.manual_seed(99)  # another process, another random state
    start = checkpoint.find(tmp_path / "part")
    outcome = run(tmp_path / "part", resumed, start=start)
    assert outcome.finished
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    assert torch.equal(resumed.module.layer.weight, whole.module.layer.weight)


@pytest.mark.own_allocator
def test_samples_show_the_average_and_change_nothing(tmp_path):
    run(tmp_path / "plain", phase())
    line = phase()
    seen = []

    def sample(step, is_left):
        assert not is_left()
        torch.rand(7)
        seen.append((step, line.module.training, line.module.layer.weight.item()))

    outcome = run(tmp_path / "sampled", replace(line, sample=sample), sample=25)
    assert [(step, training) for step, training, _ in seen] == [(25, False), (50, False), (60, False)]
    assert losses(tmp_path / "sampled") == losses(tmp_path / "plain")
    assert seen[-1][2] != line.module.layer.weight.item()
    with outcome.average.applied():
        assert seen[-1][2] == line.module.layer.weight.item()


def test_a_loss_spike_names_the_documents_of_its_batch(tmp_path):
    @dataclass(frozen=True)
    class WithOutlier(Stream):
        def __call__(self, step: int, rows: range) -> Points:
            batch = super().__call__(step, rows)
            return Points(batch.x + 50) if step == 50 else batch

    run(tmp_path, replace(phase(), batch=WithOutlier()))
    [spike] = [record for record in read_log(tmp_path) if record.get("event") == "spike"]
    assert (spike["phase"], spike["step"], spike["documents"]) == (
        "main",
        50,
        ["points/50/0", "points/50/1", "lines/7"],
    )
    assert spike["loss"] > 100 * spike["usual"]
    assert len(losses(tmp_path)) == 60, "the step counts like any other"


def test_gradient_norms_of_parts_are_recorded_now_and_then(tmp_path):
    run(tmp_path, phase(num_steps=6), grad_norms_every=3)
    records = [record for record in read_log(tmp_path) if "event" not in record]
    assert [record["step"] for record in records if "grad_norm/layer" in record] == [3, 6]
    for record in records[2::3]:
        assert record["grad_norm/layer"] == pytest.approx(record["grad_norm"], rel=1e-6), "it is the only part"


def test_the_steps_that_are_to_be_profiled_leave_their_traces(tmp_path):
    run(tmp_path, phase(num_steps=6), profiled=ProfileConfig(first_step=3, num_steps=2))
    assert sorted(file.name for file in (tmp_path / PROFILE).iterdir()) == [
        "main-3-4-rank0.json.gz",
        "main-3-4-rank0.txt",
    ]
    trace = json.loads(gzip.decompress((tmp_path / PROFILE / "main-3-4-rank0.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("Optimizer.step#AdamW.step") == 2
    assert "aten::addmm" in (tmp_path / PROFILE / "main-3-4-rank0.txt").read_text()
