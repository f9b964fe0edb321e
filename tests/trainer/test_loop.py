import io
import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from trainer import checkpoint
from trainer.config import OptimConfig
from trainer.interrupt import Interrupt
from trainer.loop import NonFiniteError, Phase, train
from trainer.metrics import RunLog, read_log
from trainer.recipes import tiny

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Points:
    """y = 3 x + 1 with some x; x may be poisoned."""

    x: Tensor

    def to(self, device, *, non_blocking=False):
        return Points(self.x.to(device))


@dataclass(frozen=True)
class LineOutput:
    loss: Tensor


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.1)  # so that the random state matters

    def forward(self, batch: Points) -> LineOutput:
        return LineOutput(((self.layer(batch.x) + 0.01 * self.dropout(batch.x) - 3 * batch.x - 1) ** 2).mean())


@dataclass(frozen=True)
class Stream:
    poisoned_step: int | None = None

    def __call__(self, step: int) -> Points:
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(step))
        return Points(x * math.inf if step == self.poisoned_step else x)


def phase(num_steps=60, **options):
    return Phase(
        name="main",
        index=1,
        module=Line(),
        batch=Stream(**options),
        measure=lambda output: {"loss": output.loss, "loss_text": None},
        count=lambda batch: (0, len(batch.x)),
        num_steps=num_steps,
        optim=OptimConfig(lr=0.2, warmup_steps=2, weight_decay=0.0),
        ema_decay=0.9,
    )


def run(directory, phase_, *, checkpoint_every=20, num_workers=0, deadline=math.inf, start=None):
    config = replace(tiny(), out=str(directory), checkpoint_every=checkpoint_every, keep=9, num_workers=num_workers)
    directory.mkdir(exist_ok=True)
    log = RunLog(directory, log_every=5, stream=io.StringIO())
    try:
        with Interrupt() as interrupt:
            return train(phase_, config, device=CPU, log=log, interrupt=interrupt, deadline=deadline, start=start)
    finally:
        log.close()


def losses(directory):
    return [record["loss"] for record in read_log(directory)]


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
    assert losses(tmp_path / "ahead") == losses(tmp_path / "here")


def test_a_bad_gradient_stops_before_the_update(tmp_path):
    line = phase(poisoned_step=7)
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, line, checkpoint_every=5)
    newest = checkpoint.find_latest(tmp_path / "checkpoints")
    assert newest.step == 5
    assert all(part in str(error.value) for part in ("is nan at step 7 of phase 'main'", str(newest.path), "optim.lr"))
    assert len(losses(tmp_path)) == 7
    # the weights are those of seven good steps
    good = phase()
    run(tmp_path / "good", replace(good, batch=lambda step: Stream()(step)), deadline=math.inf, checkpoint_every=7)
    after_seven = Line()
    checkpoint.find(tmp_path / "good" / "checkpoints" / "main-0000007").load(after_seven)
    assert torch.equal(line.module.layer.weight, after_seven.layer.weight)


def test_a_bad_gradient_before_any_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match="There is no checkpoint yet"):
        run(tmp_path, phase(poisoned_step=1))
    assert checkpoint.find_latest(tmp_path / "checkpoints") is None


def test_the_deadline_pauses_with_a_checkpoint(tmp_path):
    outcome = run(tmp_path, phase(), deadline=time.monotonic())
    assert (outcome.finished, outcome.step) == (False, 1)
    assert checkpoint.find_latest(tmp_path / "checkpoints").step == 1


def test_the_last_step_is_not_a_pause(tmp_path):
    assert run(tmp_path, phase(num_steps=1), deadline=time.monotonic()).finished


def test_the_gradient_is_clipped_to_its_global_norm(tmp_path):
    line = phase(num_steps=1)
    seen = []
    hook = line.module.layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    optim = replace(line.optim, lr=1.0, max_grad_norm=0.5, warmup_steps=0)
    run(tmp_path, replace(line, optim=optim))
    hook.remove()
    state = torch.load(tmp_path / "checkpoints" / "main-0000001" / checkpoint.STATE, weights_only=True)
    moments = [entry["exp_avg"] for entry in state["optimizer"]["state"].values()]
    norm = torch.stack([moment.norm() for moment in moments]).norm().item() / (1 - line.optim.betas[0])
    assert next(read_log(tmp_path))["grad_norm"] > 0.5
    assert norm == pytest.approx(0.5, rel=1e-4)
    assert seen[0].norm() > 0.5


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
