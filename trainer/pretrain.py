"""`python -m trainer.pretrain [RECIPE] [options]`: train a model, from its data to `model/`.

The run directory gets config.yaml (the settings, as `--config` reads them), log.jsonl (every step), tensorboard/,
checkpoints/ (for `--resume`), model/ (for `MMInterleaved.from_pretrained`) and, when it ends, index.html (its curves);
samples/ if asked for; with a corpus, quarantine.jsonl names what of it is broken.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models import Batch, MMInterleaved
from models.batch import IGNORED
from models.recompute import recompute
from trainer import checkpoint
from trainer.accumulate import Chunks, accumulate, keep_frozen_in
from trainer.checkpoint import Checkpoint
from trainer.config import PROGRAM, SETTINGS, Command, TrainConfig, UsageError, changed_settings, dump, parse
from trainer.data.corpus_stream import CorpusStream
from trainer.data.quarantine import UnusableDataError
from trainer.data.row_stream import RowStream
from trainer.data.stream import Stream
from trainer.distributed import Processes, joined, local_rank
from trainer.dry_run import peak_memory_bytes, report
from trainer.encoder_pretraining import encoder_phase
from trainer.estimate import Machine, estimate
from trainer.interrupt import Interrupt, Stop
from trainer.loop import NonFiniteError, Outcome, Phase, train
from trainer.metrics import LOG, RunLog, forget_steps_after
from trainer.out_of_memory import OutOfMemoryError
from trainer.recipes import DEFAULT_RECIPE, RECIPES
from trainer.run_page import write_page
from trainer.samples import Sampler
from trainer.starting_model import make_model

CHECKPOINTS = "checkpoints"
MODEL = "model"
QUARANTINE = "quarantine.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (`--help` lists them)."""
    given = sys.argv[1:] if arguments is None else arguments
    return carry_out(PROGRAM, lambda: parse(given, RECIPES, DEFAULT_RECIPE))


def carry_out(program: str, parse_command: Callable[[], Command]) -> int:
    """Do what a command line asks for, and say in a sentence why it cannot be done; returns the exit code."""
    try:
        command = parse_command()
        if command.dry_run is not None:
            return rehearse(command.config, command.dry_run)
        if command.estimate is not None:
            print(estimate(command.config, Machine.parse(command.estimate)))
            return 0
        return run(command.config, resume=command.resume)
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, OutOfMemoryError, UnusableDataError) as error:
        print(f"{program}: {sentence_of(error)}", file=sys.stderr)
        return 1


def run(config: TrainConfig, *, resume: str | None = None) -> int:
    """Make the whole run that `config` describes; in each process that `torchrun` started, or in this one alone.

    Args:
        config: the settings.
        resume: None for a new run; "auto" to go on from the newest checkpoint of `config.out`, or to start if there is
            none; else the path of a checkpoint or of a run directory.

    Returns:
        The exit code: 0 when the run is done or paused by `max_minutes`, 3 when SIGTERM, SIGUSR1 or a STOP file stopped
        it after a complete checkpoint, 130 when Ctrl-C did.

    Raises:
        UsageError: the run directory already holds a run, or the settings differ from the checkpoint's.
        NonFiniteError: too many gradients in a row are not finite.
        OutOfMemoryError: the device's memory is used up.
        UnusableDataError: too much of the corpus is broken.
    """
    config = with_fingerprints(config)
    deadline = time.monotonic() + 60 * config.max_minutes if config.max_minutes is not None else math.inf
    device = choose_device(config.device)
    start = find_start(config, resume)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with Interrupt(Path(config.out), deadline) as interrupt, joined(device) as processes:
        torch.manual_seed(config.seed)
        model = make_model(config)
        phases = list(make_phases(model, config))
        processes.wait_for_all()  # until nobody looks any more whether the directory holds a run
        if processes.is_first:
            prepare_directory(config, phases, start)
        with closing(make_log(config, processes, steps_before(phases, start))) as log:
            try:
                announce(log, model, config, device, processes, start)
                return run_phases(phases, model, config, processes, device, log, interrupt, start)
            except (NonFiniteError, OutOfMemoryError, UnusableDataError) as error:
                log.event("stopped", reason=sentence_of(error))
                raise
            finally:
                if processes.is_first:
                    write_page(Path(config.out))


def rehearse(config: TrainConfig, num_steps: int) -> int:
    """A few steps of the main training from its start, and a report; nothing is written. Returns the exit code.

    Raises what `run` raises.
    """
    config = replace(with_fingerprints(config), num_workers=0, log_every=num_steps)  # no workers: they count apart
    device = choose_device(config.device)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with Interrupt() as interrupt, joined(device) as processes:
        torch.manual_seed(config.seed)
        model = make_model(config)
        *_, phase = make_phases(model, config, writes=False)
        stream = None if processes.is_first else io.StringIO()
        with closing(RunLog(None, log_every=num_steps, stream=stream)) as log:
            log.say(f"{config.recipe}: a dry run of {num_steps} steps, of which nothing is kept")
            outcome = train(
                replace(phase, num_steps=num_steps),
                config,
                processes=processes,
                device=device,
                log=log,
                interrupt=interrupt,
                writes=False,
            )
            num_read, num_broken = processes.total(phase.read_and_broken())
            lines = report(
                log.recent,
                num_rows=phase.num_rows or 1,
                row_tokens=(config.corpus or config.data).row_tokens,
                num_read=num_read,
                num_broken=num_broken,
                num_steps_left=phase.num_steps,
                peak_bytes=processes.largest(peak_memory_bytes(device)),
            )
            for line in lines if log.recent else ["no step was made"]:
                log.say(line)
            return outcome.stop.exit_code if outcome.stop is not None else 0


def make_log(config: TrainConfig, processes: Processes, first_step: int) -> RunLog:
    """The log of the run for the first process, a silent one that writes nothing for the others."""
    if not processes.is_first:
        return RunLog(None, log_every=config.log_every, stream=io.StringIO())
    return RunLog(Path(config.out), log_every=config.log_every, first_step=first_step)


def run_phases(
    phases: Sequence[Phase],
    model: MMInterleaved,
    config: TrainConfig,
    processes: Processes,
    device: torch.device,
    log: RunLog,
    interrupt: Interrupt,
    start: Checkpoint | None,
) -> int:
    """Train one phase after the other, as far as it goes; returns the exit code."""
    left = [phase for phase in phases if start is None or phase.index >= start.phase_index]
    for phase in left:
        log.say(f"{phase.name}: {phase.num_steps} steps")
        outcome = train(
            phase,
            config,
            processes=processes,
            device=device,
            log=log,
            interrupt=interrupt,
            start=start if start is not None and start.phase_index == phase.index else None,
        )
        if not outcome.finished or phase is left[-1]:
            break
        outcome.parallel.release()
    if processes.is_first:
        interrupt.obeyed()
    return conclude(log, model, config, processes, phase, outcome)


def sentence_of(error: Exception) -> str:
    """What an error says; a data worker puts its traceback before it."""
    return str(error).strip().splitlines()[-1]


def with_fingerprints(config: TrainConfig) -> TrainConfig:
    """The settings with the fingerprints of their data written down. Raises UsageError if there are others already."""
    if config.corpus is None:
        return config
    try:
        return replace(config, corpus=config.corpus.with_fingerprints())
    except ValueError as error:
        raise UsageError(str(error)) from error


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where PyTorch has one, for each process of a machine another.

    Raises:
        UsageError: the device is not there.
    """
    if name == "auto":
        return torch.device(f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device is '{name}', which PyTorch cannot use here: {reason} Try --device auto.") from error
    return device


def find_start(config: TrainConfig, resume: str | None) -> Checkpoint | None:
    """The checkpoint to go on from, None to start; nothing is written.

    Raises:
        UsageError: the run directory holds a run that would be overwritten, or the settings have changed.
    """
    out = Path(config.out)
    holds_run = (out / SETTINGS).exists() or (out / LOG).exists() or (out / CHECKPOINTS).exists()
    if resume is None:
        if holds_run:
            raise UsageError(
                f"{out} already holds a run, and nothing of it was touched. Go on with it: --resume. "
                f"Or make a new one elsewhere: --out {out}-2. Or remove the directory first."
            )
        return None
    newest = checkpoint.find_latest(out / CHECKPOINTS)
    start = newest if resume == "auto" else checkpoint.find(Path(resume))
    if start is None:
        return None
    is_own = start.path.parent.resolve() == (out / CHECKPOINTS).resolve()
    if is_own and newest is not None and start.path.name != newest.path.name:
        raise UsageError(
            f"{start.path} is not the newest checkpoint of {out}; {newest.path} is. Go on from that one with --resume, "
            f"or branch off into another directory: --resume {start.path} --out {out}-2."
        )
    if not is_own and holds_run:
        raise UsageError(
            f"{start.path} belongs to another run than the one that {out} already holds. Give the directory of the "
            f"checkpoint (--out {start.path.parent.parent}) or a new one (--out {out}-2)."
        )
    changed = changed_settings(start.config, config.to_dict())
    if changed:
        raise UsageError(
            f"The settings differ from those of {start.path} (there -> now): {'; '.join(changed)}. Resume with the "
            f"same ones (--config {start.path.parent.parent / SETTINGS} --resume), or begin a new run from the weights "
            "of a finished or paused one (--out NEW --init RUN/model)."
        )
    return start


def make_phases(model: MMInterleaved, config: TrainConfig, *, writes: bool = True) -> Iterator[Phase]:
    """The encoder's pre-training and the main training, as far as there are any; with `writes`, broken data is named in
    the run directory."""
    try:
        stream: RowStream
        if config.corpus is None:
            stream = Stream(config.data, model.config, seed=config.seed)
        else:
            quarantine_file = Path(config.out) / QUARANTINE if writes else None
            tokenizer = model.processor.tokenizer if model.processor is not None else None
            stream = CorpusStream(
                config.corpus, model.config, seed=config.seed, quarantine_file=quarantine_file, tokenizer=tokenizer
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    frozen: tuple[str, ...] = ()
    if config.freeze_encoder:
        frozen = ("visual_tokenizer.adapter",)
    if config.encoder_pretraining.num_steps:
        yield encoder_phase(model, config)
    else:
        for name in frozen:  # for good, so that no checkpoint has to hold them
            model.get_submodule(name).requires_grad_(False)
    if config.num_steps == 0:
        return
    recompute(model, config.recompute)
    dtype = getattr(torch, config.precision)
    if not config.encoder_pretraining.num_steps:  # which is in float32
        keep_frozen_in(model, dtype)
    chunks = Chunks(config.images_at_once or None, config.tokens_at_once or None)
    yield Phase(
        name="main",
        index=1,
        module=model,
        batch=stream.part,
        num_rows=stream.num_rows,
        counts=count_targets_and_drawn,
        accumulate=partial(accumulate_losses, chunks=chunks, dtype=dtype),
        size=count_tokens_and_images,
        num_steps=config.num_steps,
        optim=config.optim,
        ema_decay=config.ema_decay,
        frozen=frozen,
        read_and_broken=stream.read_and_broken,
        documents=stream.keys,
        sample=Sampler(model, config) if writes and config.sample_every else None,
    )


def count_targets_and_drawn(batch: Batch) -> tuple[int, int]:
    """What the two losses are divided by: supervised tokens and drawn images."""
    return int((batch.targets != IGNORED).sum()), len(batch.drawn)


def accumulate_losses(
    model: MMInterleaved, batch: Batch, counts: Sequence[int], *, chunks: Chunks, dtype: torch.dtype
) -> dict[str, torch.Tensor | None]:
    """Gradients of a micro-batch, and its share of the losses of the whole step; None where the step has none."""
    num_targets, num_drawn = counts
    sums = accumulate(model, batch, num_targets=num_targets, num_drawn=num_drawn, chunks=chunks, dtype=dtype)
    text, image = sums.text_loss_sum / max(num_targets, 1), sums.image_loss_sum / max(num_drawn, 1)
    return {
        "loss": text + model.config.image_loss_weight * image,
        "loss_text": text if num_targets else None,
        "loss_image": image if num_drawn else None,
    }


def count_tokens_and_images(batch: Batch) -> tuple[int, int]:
    """How many tokens (no padding) and images a batch has."""
    return int((batch.document_ids >= 0).sum()), len(batch.pixel_values)


def steps_before(phases: Sequence[Phase], start: Checkpoint | None) -> int:
    """Steps of all phases that are done at `start`."""
    if start is None:
        return 0
    return start.step + sum(phase.num_steps for phase in phases if phase.index < start.phase_index)


def prepare_directory(config: TrainConfig, phases: Sequence[Phase], start: Checkpoint | None) -> None:
    """Make the run directory, write its config.yaml, and take back what its log says about steps not kept."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS).write_text(dump(config, RECIPES), encoding="utf-8")
    if start is None:
        forget_steps_after(out, [phase.name for phase in phases], phases[0].name, 0)
    else:
        forget_steps_after(out, [phase.name for phase in phases], start.phase, start.step)


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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    if processes.num > 1:
        name = f"{processes.num} processes, each on {name}"
    origin = str(start.path) if start else config.init or "random weights"
    if start is None and config.init_parts is not None:
        origin = f"random weights and {', '.join(config.init_parts) or 'no part'} of {config.init}"
    log.say(
        f"{config.recipe} in {config.out}: {num_parameters:,} parameters, {num_trainable:,} trainable, on {name}; "
        f"from {origin}"
    )
    log.event(
        "start",
        recipe=config.recipe,
        resumed_from=str(start.path) if start else None,
        init=config.init,
        init_parts=config.init_parts,
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        device=name,
        num_processes=processes.num,
        torch=torch.__version__,
    )


def conclude(
    log: RunLog, model: MMInterleaved, config: TrainConfig, processes: Processes, phase: Phase, outcome: Outcome
) -> int:
    """Write `model/` where there is one to write, say how it ended; returns the exit code."""
    out = Path(config.out)
    facts: dict[str, Any] = {"phase": phase.name, "step": outcome.step}
    goes_on = "The same command with --resume goes on."
    if outcome.stop is not None and outcome.stop is not Stop.DEADLINE:
        log.event("stopped", reason=outcome.stop.name, **facts)
        log.say(
            f"{outcome.stop.name}: stopped after step {outcome.step} of phase '{phase.name}' with a complete "
            f"checkpoint. {goes_on}"
        )
        return outcome.stop.exit_code
    is_trained = outcome.finished or phase.module is model
    if is_trained:
        with outcome.average.applied() if outcome.average is not None else nullcontext():
            outcome.parallel.release()
            if processes.is_first:
                save_model(model, out / MODEL)
    if outcome.finished:
        log.event("done", **facts)
        log.say(f"done: {out / MODEL}")
    else:
        log.event("paused", **facts)
        log.say(
            f"max_minutes ({config.max_minutes:g}) are over: paused after step {outcome.step} of {phase.num_steps} of "
            f"phase '{phase.name}' with a complete checkpoint{f' and {out / MODEL}' if is_trained else ''}. {goes_on}"
        )
    return 0


def save_model(model: MMInterleaved, directory: Path) -> None:
    """`save_pretrained`, written aside first: `directory` is the old model or the new one, never a half."""
    unfinished = directory.with_name(f".{directory.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    model.save_pretrained(unfinished)
    if directory.exists():
        shutil.rmtree(directory)
    unfinished.rename(directory)


if __name__ == "__main__":
    sys.exit(main())
