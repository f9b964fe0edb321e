"""The training loop: one phase of a run, its whole state in sight."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.config import OptimConfig, TrainConfig
from trainer.interrupt import Interrupt, ignore_in_worker
from trainer.metrics import RunLog, Step
from trainer.optim import WeightAverage, describe_groups, learning_rate_factor, make_optimizer, set_learning_rate


class NonFiniteError(FloatingPointError):
    """A gradient is infinite or not a number; nothing was updated with it."""


class TrainingBatch(Protocol):
    """What a phase trains on."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> TrainingBatch: ...


@dataclass(frozen=True)
class Phase:
    """One training of a run: what learns, from what, for how long."""

    name: str
    index: int
    module: nn.Module
    """`module(batch)` returns an object with a scalar tensor `loss`."""

    batch: Callable[[int], Any]
    """Step number to TrainingBatch; a pure function."""

    measure: Callable[[Any], dict[str, Tensor | None]]
    """What `module` returned, to the scalars that the log keeps."""

    count: Callable[[Any], tuple[int, int]]
    """A batch on the CPU to its numbers of tokens and images."""

    num_steps: int
    optim: OptimConfig
    ema_decay: float = 0.0
    frozen: tuple[str, ...] = ()
    """Submodules of `module` that stay as they are, by their dotted names."""


@dataclass(frozen=True)
class Outcome:
    """How a phase ended."""

    finished: bool
    step: int
    average: WeightAverage | None


def train(
    phase: Phase,
    config: TrainConfig,
    *,
    device: torch.device,
    log: RunLog,
    interrupt: Interrupt,
    deadline: float = math.inf,
    start: Checkpoint | None = None,
) -> Outcome:
    """Train until the phase's last step, or until `interrupt` or `deadline` (of `time.monotonic`), with a checkpoint.

    Interrupted and resumed from that checkpoint, it computes what it would have computed uninterrupted: bit for bit on
    the CPU, with the same number of threads.

    Raises:
        NonFiniteError: a gradient is not finite.
    """
    module = phase.module.to(device).train()
    for name in phase.frozen:
        module.get_submodule(name).requires_grad_(False)
    optimizer = make_optimizer(module, phase.optim)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average = WeightAverage(module, phase.ema_decay) if phase.ema_decay else None
    first = 0
    if start is not None:
        first = start.step
        restore(start.load(module), optimizer, average)
    for line in describe_groups(optimizer):
        log.say(f"  {line}")
    last_saved = start.path if start is not None else None
    loader = batches(phase, first, config.num_workers, pin_memory=device.type == "cuda")
    begun = time.monotonic()
    for step in range(first, phase.num_steps):
        batch = next(loader)
        data_wait_s = time.monotonic() - begun
        num_tokens, num_images = phase.count(batch)
        factor = learning_rate_factor(step, phase.num_steps, phase.optim)
        set_learning_rate(optimizer, factor)

        output = module(batch.to(device, non_blocking=True))
        output.loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(parameters, phase.optim.max_grad_norm)
        values = to_host({**phase.measure(output), "grad_norm": grad_norm})
        if not math.isfinite(values["grad_norm"]):
            raise NonFiniteError(non_finite_sentence(phase, step, values, last_saved))
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update()

        done = step + 1
        now = time.monotonic()
        values["lr"] = phase.optim.lr * factor
        log.step(Step(phase.name, done, phase.num_steps, values, num_tokens, num_images, now - begun, data_wait_s))
        stop = interrupt.received is not None or now >= deadline
        if stop or done % config.checkpoint_every == 0 or done == phase.num_steps:
            last_saved = checkpoint.save(
                Path(config.out) / "checkpoints",
                phase=phase.name,
                phase_index=phase.index,
                step=done,
                config=config.to_dict(),
                module=module,
                state=snapshot(optimizer, average),
                keep=config.keep,
            )
        if stop and done < phase.num_steps:
            return Outcome(finished=False, step=done, average=average)
        begun = time.monotonic()  # after the checkpoint, which is not part of a step's time
    return Outcome(finished=True, step=phase.num_steps, average=average)


def to_host(values: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """Scalar tensors to numbers in one transfer: the only place where a step waits for the GPU.

    It has to, because an update with a bad gradient cannot be taken back.
    """
    present = {name: value.detach().float() for name, value in values.items() if value is not None}
    numbers = dict(zip(present, torch.stack(list(present.values())).tolist(), strict=True))
    return {name: numbers.get(name) for name in values}


def non_finite_sentence(phase: Phase, step: int, values: Mapping[str, Any], last_saved: Path | None) -> str:
    """What happened, where, and the way out."""
    losses = ", ".join(f"{name} {value}" for name, value in values.items() if name.startswith("loss"))
    saved = f"The last complete checkpoint is {last_saved}" if last_saved else "There is no checkpoint yet"
    return (
        f"The gradient norm is {values['grad_norm']} at step {step} of phase '{phase.name}' ({losses}); the weights "
        f"were not updated with it. {saved}. Try a new run with a lower optim.lr (now {phase.optim.lr:g}) or a longer "
        f"optim.warmup_steps (now {phase.optim.warmup_steps})."
    )


def snapshot(optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> dict[str, Any]:
    """All state besides the weights that the next step depends on."""
    numpy_state: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = numpy_state
    return {
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "random": {
            "python": random.getstate(),
            "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    }


def restore(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> None:
    """The inverse of `snapshot`."""
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.load_state_dict(state["average"])
    random_states = state["random"]
    version, internal, gauss = random_states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = random_states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(random_states["torch"])
    if torch.cuda.is_available() and random_states["cuda"]:
        torch.cuda.set_rng_state_all(random_states["cuda"])


class _Steps(Dataset[Any]):
    def __init__(self, batch: Callable[[int], Any]) -> None:
        self._batch = batch

    def __getitem__(self, step: int) -> Any:
        return self._batch(step)


def _as_it_is(batch: Any) -> Any:
    return batch


def batches(phase: Phase, first: int, num_workers: int, *, pin_memory: bool) -> Iterator[Any]:
    """Batches first, first + 1, ... of the phase; `num_workers` processes make them ahead, in the same order."""
    return iter(
        DataLoader(
            _Steps(phase.batch),
            sampler=range(first, phase.num_steps),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=ignore_in_worker,
            generator=torch.Generator(),  # else it draws from the global one, and a resumed run would be one draw ahead
        )
    )
