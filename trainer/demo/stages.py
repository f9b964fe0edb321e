"""The demo from its training to its page, stage by stage."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from models import MMInterleaved
from models.atomic_files import write_atomically
from models.json_files import write_json
from trainer import pretrain
from trainer.demo.content import Demo
from trainer.demo.export_samples import write_samples
from trainer.demo.options import PROGRAM, Options
from trainer.demo.page import render_page
from trainer.demo.sampling_locations import located_answers
from trainer.demo.starting_weights import recorded_without_mmfs, training_facts
from trainer.demo.told import LABEL_MAPS, STORIES, tell
from trainer.demo.training import training_arguments, training_runs
from trainer.errors import UsageError
from trainer.evaluation.evaluated_model import describe_weights, world_of
from trainer.evaluation.evaluator import Evaluation, evaluate, table
from trainer.evaluation.progress import show_progress
from trainer.evaluation.settings import Settings
from trainer.process.environment import environment, num_cores
from trainer.run_files import MODEL


@dataclass
class Stopwatch:
    """Seconds of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and take its time."""
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun


def run(options: Options) -> int:
    """Make the whole demo; returns the exit code."""
    made_by = training_facts(options.start)
    stopwatch = Stopwatch()
    training = training_arguments(options)
    with stopwatch.stage("training"):
        status = pretrain.main(training)
    if status:
        return status
    model_dir = options.out / MODEL
    if not model_dir.is_dir():
        raise UsageError(
            f"The training paused before there was a model in {model_dir}: it ran out of time in its first phase. "
            "Start the demo again, and it goes on."
        )
    model = MMInterleaved.from_pretrained(model_dir)
    world = world_of(model_dir, None)
    settings = Settings(num_concepts=world.num_concepts, num_sprites=world.num_sprites)
    if options.quick:
        settings = replace(settings, num_texts=2, num_images=1, num_steps=2)
    shipped = None
    if options.start is not None:
        with stopwatch.stage("scores of the shipped weights"):
            shipped = evaluate_directory(options.start, settings, options.out / "scores_shipped.json")
    with stopwatch.stage("scores after live training"):
        live = evaluate_directory(model_dir, settings, options.out / "scores_live.json")
    with stopwatch.stage("answers word by word, stories"):
        located = list(located_answers(model, live))
        stories, label_maps = (
            list(tell(model, settings, telling, num_documents=1 if options.quick else 3))
            for telling in (STORIES, LABEL_MAPS)
        )
    export_dir = options.out / "export"
    write_samples(model, settings, model_dir / "samples")
    exporting = ["export.trt", str(model_dir), "--out", str(export_dir)]
    with stopwatch.stage("export"):
        status = subprocess.run([sys.executable, "-m", *exporting], check=False).returncode
    if status:
        print(f"{PROGRAM}: the export failed, so there is no page; its message is above.", file=sys.stderr)
        return status

    demo = Demo(
        live=live,
        shipped=shipped,
        without_mmfs=recorded_without_mmfs(options.start, settings),
        runs=tuple(training_runs(options)),
        located_answers=tuple(located),
        stories=tuple(stories),
        label_maps=tuple(label_maps),
        export=json.loads((export_dir / "manifest.json").read_text(encoding="utf-8")),
        made_by=made_by,
        commands={
            "training": f"{pretrain.PROGRAM} {' '.join(training)}",
            "scores": f"python -m trainer.evaluate {model_dir}",
            "export": f"python -m {' '.join(exporting)}",
        },
        environment=environment(),
        wall_times_s=stopwatch.seconds,
    )
    page = options.out / "index.html"
    write_atomically(page, render_page(demo))
    print(table(live))
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in stopwatch.seconds.items()))
    print(f"wrote {page}")
    print(f"to write with the model, open http://127.0.0.1:8000 after: python -m export.serve {model_dir}")
    return 0


def evaluate_directory(model_dir: Path, settings: Settings, file: Path) -> Evaluation:
    """Evaluate the model in a directory, and keep the results as JSON."""
    model = MMInterleaved.from_pretrained(model_dir)
    evaluation = evaluate(
        model,
        settings,
        weights=describe_weights(model_dir, model),
        num_workers=num_cores(),
        progress=show_progress,
    )
    show_progress("")
    write_json(file, evaluation.to_dict())
    return evaluation
