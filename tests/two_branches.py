"""A small training with two losses, for tests with one process or several: every row has text, some have an image.

Letters: R rows.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.errors import NonFiniteError
from trainer.logging.metrics import RunLog
from trainer.process.distributed import joined
from trainer.process.interrupt import Interrupt
from trainer.recipes import tiny
from trainer.run_files import HANG
from trainer.step import checkpoint
from trainer.step.loop import train
from trainer.step.phase import Phase
from trainer.system_config import CheckpointConfig, LoggingConfig, MemoryConfig, ParallelConfig

NUM_ROWS = 4
NUM_STEPS = 8
STEP_WITHOUT_IMAGES = 1
POISONED_STEP = 5


@dataclass(frozen=True)
class Rows:
    """[R, 3] float32 each; which rows have an image, [R] bool."""

    text: Tensor
    images: Tensor
    has_image: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Rows:
        return self


def rows_of(step: int, rows: range) -> Rows:
    """Only the first two rows have images, those of one step none; a row of another step is poisoned."""
    numbers = torch.randn(2, NUM_ROWS, 3, generator=torch.Generator().manual_seed(step))
    if step == POISONED_STEP:
        numbers[0, 3, 1] = math.inf
    has_image = (torch.arange(NUM_ROWS) < 2) & (step != STEP_WITHOUT_IMAGES)
    share = slice(rows.start, rows.stop)
    return Rows(numbers[0, share], numbers[1, share], has_image[share])


class Stack(nn.Module):
    """Layers that the text of every row goes through: one learns, one as far as its bias, one does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.layers[1].get_parameter("weight").requires_grad_(False)
        self.layers[2].requires_grad_(False)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return hidden


class Branches(nn.Module):
    """An image branch that rows without images never enter, on top of what the text goes through too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Linear(3, 5)
        self.text_head = nn.Linear(5, 1)
        self.image_head = nn.Linear(5, 2, bias=False)
        self.tied = nn.Linear(3, 5, bias=False)
        self.tied.weight = self.shared.weight
        self.stack = Stack()


def accumulate(module: Branches, batch: Rows, counts: Sequence[int]) -> dict[str, Tensor | None]:
    """Both losses' gradients; the branch of images only where there are any, as in the real model."""
    num_rows, num_images = counts
    hidden = module.stack(torch.tanh(module.shared(batch.text)))
    text = (module.text_head(hidden) - 1).square().sum() / num_rows
    image = torch.zeros(())
    if batch.has_image.any():
        drawn = torch.tanh(module.tied(batch.images[batch.has_image]))
        image = (module.image_head(drawn) + 2).square().sum() / num_images
    (text + image).backward()
    return {"loss": text + image, "loss_text": text, "loss_image": image if num_images else None}


def phase() -> Phase:
    module = Branches()
    return Phase(
        name="main",
        index=1,
        module=module,
        stack=module.stack,
        batch=rows_of,
        num_rows=NUM_ROWS,
        counts=lambda batch: (len(batch.text), int(batch.has_image.sum())),
        accumulate=accumulate,
        size=lambda batch: (batch.text.numel(), int(batch.has_image.sum())),
        num_steps=NUM_STEPS,
        optim=OptimConfig(lr=0.05, warmup_steps=2),
        ema_decay=0.9,
    )


class _Troubled:
    """What goes wrong in one process at a step, while it makes the batch. A kill waits for a checkpoint."""

    def __init__(self, rank: int, step: int, trouble: str, checkpoints: Path) -> None:
        self._trouble = trouble if rank == int(os.environ["RANK"]) else None
        self._step = step
        self._checkpoints = checkpoints

    def __call__(self, step: int, rows: range) -> Rows:
        if self._trouble is not None and step == self._step:
            if self._trouble == "sleeps":
                time.sleep(3600)
            while self._trouble == "SIGKILL" and checkpoint.find_latest(self._checkpoints) is None:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.Signals[self._trouble])
        return rows_of(step, rows)


def _write_weights(module: nn.Module, file: Path) -> None:
    file.write_text(json.dumps({name: parameter.tolist() for name, parameter in module.named_parameters()}))


class _Sampled:
    """Computes a little and writes what a sample would show; at one step, it is told meanwhile to stop."""

    def __init__(self, module: nn.Module, directory: Path, signal_at: int | None) -> None:
        self._module = module
        self._directory = directory
        self._signal_at = signal_at

    def __call__(self, step: int, is_left: Callable[[], bool]) -> None:
        if step == self._signal_at:
            assert not is_left()
            os.kill(os.getpid(), signal.SIGTERM)
        if not is_left():
            with torch.no_grad():
                self._module.get_submodule("stack")(torch.ones(2, 5))
            _write_weights(self._module, self._directory / f"sample{step}.json")


def run(
    out: str,
    *,
    resume: bool = False,
    trouble: tuple[int, int, str] | None = None,
    signal_while_sampling: int | None = None,
    micro_batch_rows: int = 0,
    sample_every: int = 0,
    max_skipped_in_a_row: int = 3,
    **parallel: Any,
) -> int:
    """Train; 0 when done, else the exit code of why not, 1 for gradients that are not finite. Leaves in `out`,
    besides the run: the averaged weights of each rank in average<rank>.json, what it said in stderr<rank>, and with
    `sample_every` the weights that samples would show, in sample<step>.json."""
    directory = Path(out)
    directory.mkdir(exist_ok=True)
    rank = int(os.environ.get("RANK", 0))
    if "RANK" in os.environ:
        os.dup2(os.open(directory / f"stderr{rank}", os.O_CREAT | os.O_WRONLY), sys.stderr.fileno())
    config = replace(
        tiny(),
        out=out,
        max_skipped_in_a_row=max_skipped_in_a_row,
        parallel=ParallelConfig(**parallel),
        memory=MemoryConfig(micro_batch_rows=micro_batch_rows),
        logging=LoggingConfig(every=1, sample_every=sample_every),
        checkpoint=CheckpointConfig(every=3, keep_latest=9),
    )
    ours = phase()
    if trouble is not None:
        ours = replace(ours, batch=_Troubled(*trouble, directory / "checkpoints"))
    if config.logging.sample_every:
        ours = replace(ours, sample=_Sampled(ours.module, directory, signal_at=signal_while_sampling))
    joining = joined(
        torch.device("cpu"),
        config.parallel,
        hang_directory=directory / HANG,
        on_traces=lambda files: (directory / f"traces{rank}").write_text(" ".join(file.name for file in files)),
    )
    with joining as processes, Interrupt(directory) as interrupt:
        log = RunLog(directory if processes.is_first else None, log_every=1, stream=io.StringIO())
        start = checkpoint.find_latest(directory / "checkpoints") if resume else None
        try:
            outcome = train(
                ours,
                config,
                processes=processes,
                device=torch.device("cpu"),
                log=log,
                interrupt=interrupt,
                start=start,
            )
        except NonFiniteError:
            return 1
        finally:
            log.close()
        if outcome.stop is not None:
            return outcome.stop.exit_code
        assert outcome.average is not None
        with outcome.average.applied():
            outcome.parallel.release()
            _write_weights(ours.module, directory / f"average{processes.rank}.json")
    return 0
