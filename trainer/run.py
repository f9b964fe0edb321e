"""A run from its settings to `model/`, and its dry run."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmfs.plurals import counted
from models import MMInterleaved
from models.object_path import place_of
from models.object_storage import StorageError
from models.write_errors import WriteError
from trainer.change_history import undone
from trainer.config import OptimConfig, TrainConfig
from trainer.cost.utilisation import peak_flops
from trainer.dry_run import report
from trainer.errors import NonFiniteError, OutOfMemoryError, UnusableDataError, UsageError
from trainer.logging.log_file import missing_steps, read_log
from trainer.logging.metrics import RunLog
from trainer.logging.weights_and_biases import EVENT, join_project, require_wandb
from trainer.options.parser import AUTO
from trainer.phases import make_phases, steps_before
from trainer.process.distributed import Processes, is_launched, joined, local_rank, num_local
from trainer.process.interrupt import Interrupt, Stop
from trainer.process.peak_memory import peak_memory_bytes
from trainer.resumed_settings import with_fingerprints
from trainer.run_directory import (
    find_start,
    held_run,
    is_of_run,
    prepare_directory,
    remove_left_over_checkpoints,
    save_model,
    undamaged_start,
)
from trainer.run_files import HANG, LOG, MODEL
from trainer.run_page import is_page_up_to_date, write_page
from trainer.run_storage import Storage, local_folder, publish_files
from trainer.starting_model import begin_model
from trainer.step.checkpoint import Checkpoint
from trainer.step.compilation import refuse_miscompiled
from trainer.step.loop import Outcome, train
from trainer.step.lr_schedule import learning_rate_factor
from trainer.step.phase import Phase
from trainer.step.starting_weights import read_stored


def make_run(command: TrainConfig, *, resume: str = AUTO, change: Sequence[str] = ()) -> int:
    """The whole run that settings describe; in each process that `torchrun` started, or in this one alone.

    Args:
        command: the settings; a run that goes on may have others since (`trainer.resumed_settings`).
        resume: "auto" to go on with what `command.out` holds, or to start if it holds nothing; "none" for a new run;
            else the path of a checkpoint or of a run directory.
        change: `NAME=VALUE` of settings that are others from there on.

    Returns:
        The exit code: 0 when the run is done, now or before, or paused by `max_minutes`, 3 when SIGTERM, SIGHUP,
        SIGUSR1, a STOP file or a reader of standard output that went away stopped it after a complete checkpoint, 130
        when Ctrl-C did.

    Raises:
        UsageError: a run would be overwritten, or the settings differ from those of the run to go on with, or its
            checkpoints are damaged, or another process trains in its directory.
        NonFiniteError: too many gradients in a row are not finite.
        OutOfMemoryError: the device's memory is used up.
        UnusableDataError: too much of the corpus is broken.
        WriteError: the disk is full, say.
    """
    deadline = time.monotonic() + 60 * command.max_minutes if command.max_minutes is not None else math.inf
    device = choose_device(command.device)
    require_wandb(command.logging.wandb)
    found = find_start(command, resume, change)
    config = found.config
    if not found.is_finished:
        refuse_miscompiled(config.compile, device)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    place, folder = place_of(config.out), local_folder(config.out)
    interrupt = Interrupt(folder, deadline, echoes=is_launched())
    joining = joined(
        device,
        config.parallel,
        interrupt,
        hang_directory=folder / HANG,
        on_traces=partial(publish_files, config.out),
    )
    with interrupt, joining as processes:
        if found.is_finished:
            if processes.is_first:
                remove_left_over_checkpoints(place, config.checkpoint.keep_latest)
                print(found.note)
                if isinstance(place, Path) and not is_page_up_to_date(place):  # it was killed after its model was there
                    print(f"wrote {write_page(place)}")
            return 0
        processes.watchdog.enters("the check of the checkpoint")
        found = undamaged_start(found, command, resume, processes, change)
        config, start = found.config, found.checkpoint
        processes.watchdog.enters("the making of the model")
        torch.manual_seed(config.seed)
        beginning = begin_model(config, processes)
        model = beginning.model
        phases = list(make_phases(beginning, config))
        with held_run(config.out, processes, say=print) as storage:
            processes.watchdog.enters("the making of the run directory")
            processes.barrier()  # until every process has looked whether the directory holds a run
            if processes.is_first:
                prepare_directory(config, phases, start)
            if storage is not None:
                storage.publish()
            first_step = steps_before(phases, start)
            with closing(make_log(config, processes, device, first_step, interrupt)) as log:
                try:
                    if found.note is not None:
                        log.message(found.note)
                    if processes.is_first:
                        tell_missing_steps(log, config, phases, start)
                        tell_change(log, config, start)
                    announce(log, model, config, device, processes, start)
                    status = run_phases(phases, model, config, processes, device, log, interrupt, start, storage)
                except (NonFiniteError, OutOfMemoryError, UnusableDataError, StorageError, WriteError) as error:
                    with suppress(WriteError):  # the disk may be full
                        log.event("stopped", reason=sentence_of(error))
                    raise
                except BaseException:
                    if processes.is_first:
                        with suppress(OSError):  # what ended the run is what counts
                            finish_page(folder, storage)
                    raise
                if processes.is_first:
                    finish_page(folder, storage)
        processes.barrier()  # where one process ends with another code than 0, `torchrun` ends the others
        return status


def finish_page(folder: Path, storage: Storage | None) -> None:
    """Write the page about a run that ends; what of it is in object storage is complete with it."""
    write_page(folder)
    if storage is not None:
        storage.publish()


def make_dry_run(config: TrainConfig, num_steps: int) -> int:
    """A few steps of the main training from its start, and a report; nothing is written. Returns the exit code.

    Raises what `make_run` raises.
    """
    config = replace(
        with_fingerprints(config),
        num_workers=0,  # a worker process would count what it reads where this one cannot see it
        logging=replace(config.logging, every=num_steps),
    )
    device = choose_device(config.device)
    refuse_miscompiled(config.compile, device)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with Interrupt(echoes=is_launched()) as interrupt, joined(device, config.parallel, interrupt) as processes:
        torch.manual_seed(config.seed)
        *_, phase = make_phases(begin_model(config, processes), config, writes=False)
        stream = None if processes.is_first else io.StringIO()
        with closing(RunLog(None, log_every=num_steps, stream=stream)) as log:
            log.message(f"{config.recipe}: a dry run of {counted(num_steps, 'step')}, of which nothing is kept")
            outcome = train(
                replace(phase, num_steps=num_steps),
                config,
                processes=processes,
                device=device,
                log=log,
                interrupt=interrupt,
                writes=False,
            )
            num_read, num_broken = processes.all_reduce_sum(phase.read_and_broken())
            peak_bytes = processes.all_reduce_max(peak_memory_bytes(device))
            if not log.recent:
                log.message("no step was made")
                return outcome.stop.exit_code if outcome.stop is not None else 0
            lines = report(
                log.recent,
                num_rows=phase.num_rows,
                row_tokens=(config.corpus or config.data).row_tokens,
                num_read=num_read,
                num_broken=num_broken,
                num_steps_left=phase.num_steps,
                peak_bytes=peak_bytes,
            )
            for line in lines:
                log.message(line)
            return outcome.stop.exit_code if outcome.stop is not None else 0


def make_log(
    config: TrainConfig, processes: Processes, device: torch.device, first_step: int, interrupt: Interrupt
) -> RunLog:
    """The log of the run for the first process; for the others one that writes nothing, and is silent unless every rank
    is to speak."""
    if not processes.is_first:
        stream = None if config.logging.every_rank else io.StringIO()
        return RunLog(None, log_every=config.logging.every, stream=stream)
    peak = peak_flops(config, device)
    wandb = join_project(config) if config.logging.wandb is not None else None
    log = RunLog(
        local_folder(config.out),
        log_every=config.logging.every,
        first_step=first_step,
        peak_flops=None if peak is None else peak * processes.num,
        sink=wandb,
        on_output_closed=interrupt.output_closed,
    )
    if wandb is not None:
        log.event(EVENT, project=config.logging.wandb, run_id=wandb.run_id)
    return log


def run_phases(
    phases: Sequence[Phase],
    model: MMInterleaved,
    config: TrainConfig,
    processes: Processes,
    device: torch.device,
    log: RunLog,
    interrupt: Interrupt,
    start: Checkpoint | None,
    storage: Storage | None,
) -> int:
    """Train one phase after the other, as far as it goes; returns the exit code."""
    left = [phase for phase in phases if start is None or phase.index >= start.phase_index]
    for phase in left:
        log.message(f"{phase.name}: {counted(phase.num_steps, 'step')}")
        outcome = train(
            phase,
            config,
            processes=processes,
            device=device,
            log=log,
            interrupt=interrupt,
            start=start if start is not None and start.phase_index == phase.index else None,
            before_checkpoint=storage.publish if storage is not None else lambda: None,
        )
        if not outcome.finished or phase is left[-1]:
            break
        outcome.parallel.release()
    if processes.is_first:
        interrupt.obeyed()
    processes.watchdog.allows_waiting("the end of the run")  # the first process may write for long
    read_stored(model, torch.device("cpu"), phase.stored)  # what no phase has trained
    return conclude(log, model, config, processes, phase, outcome, storage)


def tell_missing_steps(log: RunLog, config: TrainConfig, phases: Sequence[Phase], start: Checkpoint | None) -> None:
    """Say which steps before the checkpoint that a run goes on from its log lacks: lost in a power cut, say."""
    out = local_folder(config.out)
    if start is None or not is_of_run(start, place_of(config.out)):
        return
    done = {
        phase.name: phase.num_steps if phase.index < start.phase_index else start.step
        for phase in phases
        if phase.index <= start.phase_index
    }
    for phase, missing in missing_steps(out, done).items():
        log.event("missing", phase=phase, steps=missing)
        log.message(
            f"{out / LOG} lacks {counted(len(missing), 'step')} of phase '{phase}', between {missing[0]} and "
            f"{missing[-1]}, which were made: the lines were lost or damaged. The weights are not affected."
        )


def tell_change(log: RunLog, config: TrainConfig, start: Checkpoint | None) -> None:
    """Say what of the settings is another from the checkpoint on that a run goes on from, in log.jsonl once."""
    if start is None or not config.history:
        return
    change = config.history[-1]
    if (change.phase, change.step) != (start.phase, start.step):
        return
    facts = asdict(change)
    records = read_log(local_folder(config.out), pass_over_damage=True)
    if not any(record.get("event") == "changed" and facts.items() <= record.items() for record in records):
        log.event("changed", **facts)
    log.message(f"changed {change}")
    if change.phase == "main":
        before = undone(config.to_dict(), [change])
        rates = [
            optim.lr * learning_rate_factor(start.step, num_steps, optim)
            for num_steps, optim in (
                (before["num_steps"], OptimConfig(**before["optim"])),
                (config.num_steps, config.optim),
            )
        ]
        if rates[0] != rates[1]:
            log.message(f"  the learning rate of step {start.step + 1} is {rates[1]:.3g} ({rates[0]:.3g} without it)")


def sentence_of(error: Exception) -> str:
    """What an error says; a data worker puts its traceback before it."""
    return str(error).strip().splitlines()[-1]


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where PyTorch has one, and like "cuda" another for each process of a machine.

    Raises:
        UsageError: the device is not there, or not there for all processes.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        if num_local() > torch.cuda.device_count():
            num_gpus = torch.cuda.device_count()
            raise UsageError(
                f"torchrun started {num_local()} processes on a machine whose GPUs are {num_gpus}, and each needs one "
                f"of its own. Try torchrun --nproc-per-node {num_gpus}, or --device cpu."
            )
        return torch.device(f"cuda:{local_rank()}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device is '{name}', which PyTorch cannot use here: {reason.rstrip('.')}. Try --device auto."
        ) from error
    if device.type == "cuda" and num_local() > 1:
        raise UsageError(
            f"device is '{name}', and torchrun started {num_local()} processes; expected auto or cuda, by which each "
            "has a GPU of its own."
        )
    return device


def announce(
    log: RunLog,
    model: MMInterleaved,
    config: TrainConfig,
    device: torch.device,
    processes: Processes,
    start: Checkpoint | None,
) -> None:
    """Say what is about to run."""
    num_parameters = sum(p.numel() for p in model.parameters())
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "CPU thread")
    )
    if processes.num > 1:
        name = f"{processes.num} processes, each on {name}"
    origin = str(start.path) if start else config.init or "random weights"
    if start is None and config.init_components is not None:
        origin = f"random weights and {', '.join(config.init_components) or 'no part'} of {config.init}"
    log.message(
        f"{config.recipe} in {config.out}: {num_parameters:,} parameters, {num_trainable:,} trainable, on {name}; "
        f"from {origin}"
    )
    log.event(
        "start",
        recipe=config.recipe,
        resumed_from=str(start.path) if start else None,
        init=config.init,
        init_components=config.init_components,
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        device=name,
        num_processes=processes.num,
        torch=torch.__version__,
    )


def conclude(
    log: RunLog,
    model: MMInterleaved,
    config: TrainConfig,
    processes: Processes,
    phase: Phase,
    outcome: Outcome,
    storage: Storage | None,
) -> int:
    """Write `model/` where there is one to write, say how it ended; returns the exit code."""
    out = place_of(config.out)
    facts: dict[str, Any] = {"phase": phase.name, "step": outcome.step}
    goes_on = "The same command goes on."
    if outcome.stop is not None and outcome.stop is not Stop.DEADLINE:
        log.event("stopped", reason=outcome.stop.name, **facts)
        log.message(
            f"{outcome.stop.name}: stopped after step {outcome.step} of phase '{phase.name}' with a complete "
            f"checkpoint. {goes_on}"
        )
        return outcome.stop.exit_code
    is_trained = outcome.finished or phase.module is model
    if is_trained:
        if outcome.average is not None:
            outcome.average.replace_weights()
        save_model(model, local_folder(config.out) / MODEL, is_main_process=processes.is_first)
        if storage is not None:
            storage.publish_model()
    if outcome.finished:
        log.event("done", **facts)
        log.message(f"done: {out / MODEL}")
    else:
        log.event("paused", **facts)
        log.message(
            f"max_minutes ({config.max_minutes:g}) are over: paused after step {outcome.step} of {phase.num_steps} of "
            f"phase '{phase.name}' with a complete checkpoint{f' and {out / MODEL}' if is_trained else ''}. {goes_on}"
        )
    return 0
