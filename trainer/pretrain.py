"""`python -m trainer.pretrain [RECIPE] [options]`: train a model, from its data to `model/`.

The run directory gets config.yaml (the settings, as `--config` reads them), log.jsonl (every step), tensorboard/,
checkpoints/ (for `--resume`) and model/ (for `MMInterleaved.from_pretrained`); with a corpus, quarantine.jsonl names
what of it is broken.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models import Batch, MMInterleaved, MMInterleavedProcessor, Output
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.config import PROGRAM, TrainConfig, UsageError, changed_settings, dump, parse
from trainer.data.corpus_stream import CorpusStream
from trainer.data.quarantine import UnusableDataError
from trainer.data.row_stream import RowStream
from trainer.data.stream import Stream
from trainer.encoder_pretraining import encoder_phase
from trainer.interrupt import Interrupt
from trainer.loop import NonFiniteError, Outcome, Phase, train
from trainer.metrics import LOG, RunLog, forget_steps_after
from trainer.recipes import DEFAULT_RECIPE, RECIPES

SETTINGS = "config.yaml"
CHECKPOINTS = "checkpoints"
MODEL = "model"
QUARANTINE = "quarantine.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (`--help` lists them)."""
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments, RECIPES, DEFAULT_RECIPE)
        return run(command.config, resume=command.resume)
    except UsageError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, UnusableDataError) as error:
        print(f"{PROGRAM}: {sentence_of(error)}", file=sys.stderr)
        return 1


def run(config: TrainConfig, *, resume: str | None = None) -> int:
    """Make the whole run that `config` describes.

    Args:
        config: the settings.
        resume: None for a new run; "auto" to go on from the newest checkpoint of `config.out`, or to start if there is
            none; else the path of a checkpoint or of a run directory.

    Returns:
        The exit code: 0 when the run is done or paused by `max_minutes`, 128 + the signal's number when Ctrl-C or
        SIGTERM stopped it after a complete checkpoint.

    Raises:
        UsageError: the run directory already holds a run, or the settings differ from the checkpoint's.
        NonFiniteError: a gradient is not finite.
        UnusableDataError: too much of the corpus is broken.
    """
    config = with_fingerprints(config)
    deadline = time.monotonic() + 60 * config.max_minutes if config.max_minutes is not None else math.inf
    device = choose_device(config.device)
    start = find_start(config, resume)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    out = Path(config.out)
    with Interrupt() as interrupt:
        torch.manual_seed(config.seed)
        model = make_model(config)
        phases = list(make_phases(model, config))
        prepare_directory(config, phases, start)
        log = RunLog(out, log_every=config.log_every, first_step=steps_before(phases, start))
        try:
            announce(log, model, config, device, start)
            for phase in phases:
                if start is not None and phase.index < start.phase_index:
                    continue
                log.say(f"{phase.name}: {phase.num_steps} steps")
                outcome = train(
                    phase,
                    config,
                    device=device,
                    log=log,
                    interrupt=interrupt,
                    deadline=deadline,
                    start=start if start is not None and start.phase_index == phase.index else None,
                )
                if not outcome.finished:
                    break
            return conclude(log, model, config, phase, outcome, interrupt)
        except (NonFiniteError, UnusableDataError) as error:
            log.event("stopped", reason=sentence_of(error))
            raise
        finally:
            log.close()


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
    """ "auto" is the GPU where PyTorch has one. Raises UsageError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def make_model(config: TrainConfig) -> MMInterleaved:
    """The model that the run starts with, random (by the seed) or from `config.init`."""
    texts = config.data if config.corpus is None else config.corpus
    try:
        processor = MMInterleavedProcessor(texts.tokenizer(), image_size=config.model.vision.clip["image_size"])
    except ValueError as error:
        raise UsageError(str(error)) from error
    if config.init is None:
        return MMInterleaved(config.model, processor)
    source = load_model(config.init)
    if config.init_parts is not None:
        model = MMInterleaved(config.model, processor)
        take_parts(model, source, config)
        return model
    changed = changed_settings(source.config.to_dict(), config.model.to_dict())
    if changed:
        raise UsageError(
            f"init is '{config.init}', a model with other settings than the run's (there -> here): "
            f"{'; '.join(changed)}. Set the model's options to those of the weights, or start without --init."
        )
    source.processor = processor
    return source


def load_model(directory: str) -> MMInterleaved:
    """The model that the setting `init` names; UsageError if there is none."""
    try:
        return MMInterleaved.from_pretrained(directory)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"init is '{directory}', which cannot be loaded: {error}") from error


def take_parts(model: MMInterleaved, source: MMInterleaved, config: TrainConfig) -> None:
    """Copy the weights of the parts that `config.init_parts` names."""
    for part in config.init_parts or ():
        try:
            model.get_submodule(part).load_state_dict(source.get_submodule(part).state_dict())
            if part == "language_model":
                model.load_state_dict({"begin_of_image": source.begin_of_image}, strict=False)
        except RuntimeError as error:
            raise UsageError(
                f"init is '{config.init}', whose {part} has another shape than this run's: {error}. Give both the same "
                "settings there, or leave it out of init_parts."
            ) from error


def make_phases(model: MMInterleaved, config: TrainConfig) -> Iterator[Phase]:
    """The encoder's pre-training and the main training, as far as there are any."""
    try:
        stream: RowStream
        if config.corpus is None:
            stream = Stream(config.data, config.model, seed=config.seed)
        else:
            quarantine_file = Path(config.out) / QUARANTINE
            stream = CorpusStream(config.corpus, config.model, seed=config.seed, quarantine_file=quarantine_file)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if config.encoder_pretraining.num_steps:
        yield encoder_phase(model, config)
    if config.num_steps == 0:
        return
    yield Phase(
        name="main",
        index=1,
        module=model,
        batch=stream,
        measure=measure_losses,
        count=count_tokens_and_images,
        num_steps=config.num_steps,
        optim=config.optim,
        ema_decay=config.ema_decay,
        frozen=("visual_tokenizer.adapter",) if config.freeze_encoder else (),
    )


def measure_losses(output: Output) -> dict[str, torch.Tensor | None]:
    """The losses of a batch; None where it had nothing of that kind."""
    return {
        "loss": output.loss,
        "loss_text": output.loss_text if output.num_targets else None,
        "loss_image": output.loss_image if output.num_drawn else None,
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
    log: RunLog, model: MMInterleaved, config: TrainConfig, device: torch.device, start: Checkpoint | None
) -> None:
    """Say what is about to run."""
    num_parameters = sum(p.numel() for p in model.parameters())
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
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
        torch=torch.__version__,
    )


def conclude(
    log: RunLog, model: MMInterleaved, config: TrainConfig, phase: Phase, outcome: Outcome, interrupt: Interrupt
) -> int:
    """Write `model/` where there is one to write, say how it ended; returns the exit code."""
    out = Path(config.out)
    facts: dict[str, Any] = {"phase": phase.name, "step": outcome.step}
    if not outcome.finished and interrupt.received is not None:
        log.event("stopped", reason=interrupt.received.name, **facts)
        log.say(
            f"{interrupt.received.name}: stopped after step {outcome.step} of phase '{phase.name}' with a complete "
            "checkpoint. The same command with --resume goes on."
        )
        return interrupt.exit_code
    is_trained = outcome.finished or phase.module is model
    if is_trained:
        with outcome.average.applied() if outcome.average is not None else nullcontext():
            save_model(model, out / MODEL)
    if outcome.finished:
        log.event("done", **facts)
        log.say(f"done: {out / MODEL}")
    else:
        log.event("paused", **facts)
        log.say(
            f"max_minutes ({config.max_minutes:g}) are over: paused after step {outcome.step} of {phase.num_steps} of "
            f"phase '{phase.name}' with a complete checkpoint{f' and {out / MODEL}' if is_trained else ''}. "
            "The same command with --resume goes on."
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
