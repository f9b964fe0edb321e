"""The demo's training: the command it gives, and the losses that came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.demo.content import Run
from trainer.demo.options import Options
from trainer.logging.charts import Curve
from trainer.logging.log_file import read_log
from trainer.recipes import toy
from trainer.run_files import LOG

RECIPE = "toy"
SCRATCH_RECIPE = "toy_scratch"
QUICK = {
    "num_steps": 4,
    "logging.every": 1,
    "data.num_rows": 2,
    "encoder_pretraining.images_per_step": 2,
}


def training_arguments(options: Options) -> list[str]:
    """What the demo gives to `python -m trainer.pretrain`; started again, it goes on or is already done."""
    settings: dict[str, Any] = {"out": options.out}
    if options.start is not None:
        settings["init"] = options.start
    else:
        settings["data.tasks"] = toy().data.tasks  # those that the page shows, with the answers in steps
    if options.quick:
        settings |= QUICK
        if options.start is None:
            settings["encoder_pretraining.num_steps"] = 2
    if options.minutes is not None:
        settings["max_minutes"] = options.minutes
    recipe = SCRATCH_RECIPE if options.start is None else RECIPE
    return [recipe, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def training_runs(options: Options) -> Iterator[Run]:
    """The losses of the run that made the shipped weights, and of this one."""
    if options.start is not None and (options.start / LOG).exists():
        yield run_of("the long run that made the shipped weights", options.start)
    yield run_of("this run", options.out)


def run_of(title: str, directory: Path) -> Run:
    """The main training in a log.jsonl."""
    records = [record for record in read_log(directory) if record.get("phase") == "main"]
    return Run(title, curve_of(records, "loss_text"), curve_of(records, "loss_image"))


def curve_of(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """One loss; steps without it are left out."""
    present = [(record["step"], record[name]) for record in records if record.get(name)]
    return Curve(name, tuple(step for step, _ in present), tuple(value for _, value in present))
