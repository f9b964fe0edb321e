"""The training loop: one phase of a run, its whole state in sight."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from models.object_path import Place, place_of
from models.sharded_tensors import full_tensor
from trainer.config import TrainConfig
from trainer.errors import NonFiniteError
from trainer.logging.loss_spikes import LossSpikes, Usual
from trainer.logging.metrics import RunLog, Step
from trainer.process.distributed import Processes
from trainer.process.interrupt import Interrupt, Stop
from trainer.process.peak_memory import peak_memory_bytes
from trainer.run_files import CHECKPOINTS, PROFILE
from trainer.run_storage import local_folder, publish_files
from trainer.step.checkpoint import Checkpoint, Saver
from trainer.step.compilation import Compilation, compiler_errors_explained, uncompiled
from trainer.step.dataloader import micro_batch_loader
from trainer.step.ema import WeightEMA
from trainer.step.fsdp import ParallelModule
from trainer.step.gradient_norms import gradient_norms
from trainer.step.lr_schedule import learning_rate_factor, set_learning_rate
from trainer.step.micro_batches import rows_of_micro_batches, run_micro_batches
from trainer.step.optimizer import describe_groups, make_optimizer
from trainer.step.out_of_memory import FEWER_STATES, memory_saving_options, out_of_memory_explained
from trainer.step.phase import Phase
from trainer.step.profiler import StepProfiler
from trainer.step.training_state import (
    TrainingState,
    fingerprint,
    frozen_names,
    learned_names,
    random_states,
    seed_randomly,
    set_random_states,
)


@dataclass(frozen=True)
class Outcome:
    """How a phase ended."""

    finished: bool
    step: int
    average: WeightEMA | None
    parallel: ParallelModule
    """Holds the module's parameters; `release` gives them back to it."""

    stop: Stop | None = None
    """Why it did not finish."""


def train(
    phase: Phase,
    config: TrainConfig,
    *,
    processes: Processes,
    device: torch.device,
    log: RunLog,
    interrupt: Interrupt,
    start: Checkpoint | None = None,
    writes: bool = True,
    before_checkpoint: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train until the phase's last step, or until `interrupt` in any process says stop, with a checkpoint.

    Interrupted and resumed from that checkpoint, it computes what it would have computed uninterrupted: bit for bit on
    the CPU with the same numbers of processes and threads, and from the same batches with others. Without `writes`
    there are no checkpoints; `before_checkpoint` is called before each of them becomes complete (`Saver`).

    Raises:
        NonFiniteError: more gradients in a row are not finite than `config.max_skipped_in_a_row`.
        OutOfMemoryError: the device's memory is used up.
        UsageError: the processes cannot share the rows of a batch, or `start` is of another model.
    """
    watchdog = processes.watchdog
    watchdog.enters("the start of a phase")
    module = phase.module.train()
    learned, never_learned = learned_names(module), frozen_names(module)
    for name in phase.frozen:
        module.get_submodule(name).requires_grad_(False)
    rows = rows_of_micro_batches(phase.num_rows, config.memory.micro_batch_rows, processes)
    parallel = ParallelModule(
        module,
        processes,
        device,
        config.parallel.shard_size,
        phase.stack if config.parallel.shard_layers else None,
        gather_dtype=torch.bfloat16 if config.parallel.gather_dtype == "bfloat16" else None,
        stored=phase.stored,
    )
    base = fingerprint(module, never_learned)
    optimizer = make_optimizer(module, phase.optim)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average = WeightEMA(module, phase.ema_decay) if phase.ema_decay else None
    state = TrainingState(module, learned, optimizer, average, processes, seed=config.seed)
    saver = Saver(
        place_of(config.out) / CHECKPOINTS,
        processes,
        keep_latest=config.checkpoint.keep_latest,
        before_complete=before_checkpoint,
    )
    if processes.num > 1:  # what is random in a layer must not be the same for all rows of a batch
        seed_randomly(config.seed, phase.index, processes.rank)
    first = 0
    if start is not None:
        first, saver.latest = start.step, start.path
        watchdog.enters("the loading of a checkpoint")
        start.load(state, base, processes)
    for line in describe_groups(optimizer):
        log.message(f"  {line}")
    flops_of = phase.flops() if phase.flops is not None and log.peak_flops is not None else None
    compilation = Compilation()
    spikes = LossSpikes(config.logging.spike_deviations)
    profiler = StepProfiler(config.profile, local_folder(config.out), phase.name, processes.rank, device)
    with (
        micro_batch_loader(phase, rows, first, config.num_workers, pin_memory=device.type == "cuda") as loader,
        saver,
        compilation.watched(),
    ):

        def save(step: int) -> None:
            watchdog.enters("the checkpoint")
            log.sync()  # first, so that after a power cut no step of a checkpoint lacks its line
            saver.save(state, phase=phase.name, phase_index=phase.index, step=step, config=config.to_dict(), base=base)

        begun = time.monotonic()
        for step in range(first, phase.num_steps):
            profiler.begins(step + 1)
            watchdog.enters("the wait for data")
            micro_batches = next(loader)
            data_wait_s = time.monotonic() - begun
            watchdog.enters("the agreement on counts")
            numbers = [(*phase.counts(batch), *phase.size(batch)) for batch in micro_batches]
            *counts, num_tokens, num_images = processes.all_reduce_sum(
                [sum(column) for column in zip(*numbers, strict=True)]
            )
            factor = learning_rate_factor(step, phase.num_steps, phase.optim)
            set_learning_rate(optimizer, factor)

            watchdog.enters("forward and backward")
            with out_of_memory_explained(memory_saving_options(config)), compiler_errors_explained():
                contributions = run_micro_batches(
                    phase, parallel, micro_batches, counts, device, lambda: agreed_stop(interrupt, processes)
                )
            if (compiled := compilation.report()) is not None:
                log.message(f"{phase.name} {step + 1}: {compiled}")
            done = step
            if not isinstance(contributions, Stop):
                watchdog.enters("the update")
                every = config.logging.grad_norms_every
                norms = gradient_norms(module) if every and (step + 1) % every == 0 else {}
                grad_norm = full_tensor(nn.utils.clip_grad_norm_(parameters, phase.optim.max_grad_norm))
                values = to_host(contributions, grad_norm, processes, norms)
                if math.isfinite(values["grad_norm"]):
                    with out_of_memory_explained(FEWER_STATES):
                        optimizer.step()
                    if average is not None:
                        average.update()
                    state.num_skipped = 0
                    if (usual := spikes.add(values["loss"])) is not None:
                        spiked(phase, step, values["loss"], usual, log)
                    values["lr"] = phase.optim.lr * factor
                    step_s = time.monotonic() - begun
                    is_due = log.is_due(step + 1, phase.num_steps)
                    log.step(
                        Step(
                            phase.name,
                            step + 1,
                            phase.num_steps,
                            values,
                            num_tokens,
                            num_images,
                            step_s,
                            data_wait_s,
                            flops=None if flops_of is None else flops_of(counts, num_images),
                            peak_memory_bytes=processes.all_reduce_max(peak_memory_bytes(device)) if is_due else None,
                        )
                    )
                else:
                    state.num_skipped += 1
                    skipped(phase, step, values, state.num_skipped, log)
                    if state.num_skipped > config.max_skipped_in_a_row:
                        raise NonFiniteError(non_finite_sentence(phase, step, values, state.num_skipped, saver.latest))
                optimizer.zero_grad()
                done = step + 1

            stop = contributions if isinstance(contributions, Stop) else agreed_stop(interrupt, processes)
            if writes and (stop or done % config.checkpoint.every == 0 or done == phase.num_steps):
                save(done)
            saver.finish_if_written()
            is_shown = phase.sample is not None and (done % config.logging.sample_every == 0 or done == phase.num_steps)
            if is_shown and stop is None:
                watchdog.enters("the samples")
                make_samples(phase, done, parallel, average, processes, interrupt)
                stop = agreed_stop(interrupt, processes)
                if stop and writes:
                    save(done)
            if stop and done < phase.num_steps:
                return Outcome(finished=False, step=done, average=average, parallel=parallel, stop=stop)
            if profiler.ends(done, is_last=done == phase.num_steps):
                publish_files(config.out, profiler.files())
                log.message(f"wrote {place_of(config.out) / PROFILE / profiler.files()[0].name}")
            begun = time.monotonic()  # after the checkpoint, which is not part of a step's time
        watchdog.enters("the last checkpoint")
    return Outcome(finished=True, step=phase.num_steps, average=average, parallel=parallel)


def agreed_stop(interrupt: Interrupt, processes: Processes) -> Stop | None:
    """Why all processes stop now: the strongest reason that any of them has."""
    number = processes.all_reduce_max(interrupt.reason or 0)
    return Stop(number) if number else None


def to_host(
    contributions: Mapping[str, Tensor | None],
    grad_norm: Tensor,
    processes: Processes,
    norms: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everybody's contributions added up, and the gradient's norm with those of its parts, as numbers in one transfer:
    the only place where a step waits for the GPU.

    It has to, because an update with a bad gradient cannot be taken back.
    """
    present = {name: value.detach().float() for name, value in contributions.items() if value is not None}
    sums = processes.all_reduce_sum_tensor(torch.stack(list(present.values())))
    names = ["grad_norm", *(f"grad_norm/{part}" for part in norms)]
    all_norms = torch.stack([norm.detach().float().reshape(()) for norm in (grad_norm, *norms.values())])
    numbers = dict(zip([*present, *names], torch.cat([sums, all_norms]).tolist(), strict=True))
    return {name: numbers.get(name) for name in [*contributions, *names]}


def make_samples(
    phase: Phase,
    step: int,
    parallel: ParallelModule,
    average: WeightEMA | None,
    processes: Processes,
    interrupt: Interrupt,
) -> None:
    """`phase.sample` with the averaged weights if there are any; all that training uses is afterwards what it was."""
    assert phase.sample is not None
    random_before = random_states()
    with average.applied() if average is not None else nullcontext(), parallel.whole(), uncompiled():
        if processes.is_first:
            phase.module.eval()
            phase.sample(step, lambda: interrupt.reason is not None)
            phase.module.train()
    set_random_states(random_before)


def spiked(phase: Phase, step: int, loss: float, usual: Usual, log: RunLog) -> None:
    """Tell of a loss far above those before it."""
    documents = phase.documents(step)
    log.event("spike", phase=phase.name, step=step, loss=loss, usual=usual.loss, documents=documents)
    shown = f" Its documents, all of them in log.jsonl: {', '.join(documents[:3])}, ..." if documents else ""
    log.message(
        f"{phase.name} {step + 1}: the loss is {loss:.4g}, far above the usual {usual.loss:.4g} (standard deviation "
        f"{usual.deviation:.2g}).{shown}"
    )


def skipped(phase: Phase, step: int, values: Mapping[str, Any], num_in_a_row: int, log: RunLog) -> None:
    """Tell of a step that was left out, which all processes do together, for they all see the same norm."""
    as_text = {name: str(value) for name, value in values.items()}  # JSON has no NaN
    log.event("skipped", phase=phase.name, step=step, values=as_text, documents=phase.documents(step))
    log.message(
        f"{phase.name} {step + 1}: skipped, for its gradient norm is {values['grad_norm']} ({num_in_a_row} in a row)"
    )


def non_finite_sentence(
    phase: Phase, step: int, values: Mapping[str, Any], num_in_a_row: int, last_saved: Place | None
) -> str:
    """What happened, where, and the way out."""
    whole = {name: value for name, value in values.items() if name.startswith("loss") and "/" not in name}
    losses = ", ".join(f"{name} {value}" for name, value in whole.items())
    sources = Counter(key.partition("/")[0] for key in phase.documents(step))
    counted = ", ".join(f"{count} of {source}" for source, count in sources.most_common())
    documents = f" Its batch has documents from these sources: {counted}; log.jsonl has their keys." if sources else ""
    saved = f"The last complete checkpoint is {last_saved}" if last_saved else "There is no checkpoint yet"
    times = "" if num_in_a_row == 1 else f", after {num_in_a_row - 1} skipped before it"
    return (
        f"The gradient norm is {values['grad_norm']} at step {step} of phase '{phase.name}' ({losses}){times}; the "
        f"weights were not updated with it.{documents} {saved}. Try a new run with a lower optim.lr (now "
        f"{phase.optim.lr:g}) or a longer optim.warmup_steps (now {phase.optim.warmup_steps})."
    )
