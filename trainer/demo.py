"""`python -m trainer.demo`: train the toy model, examine it, export it, and write a page that shows it all.

The training goes on from the weights in `trainer/weights/toy`, which the same command made in a longer run. Stopped
with Ctrl-C, the demo goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from models import MMInterleaved
from trainer import pretrain
from trainer.config import UsageError
from trainer.data.document import Document, Text, prompt_of
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.stream import picture_px
from trainer.demo_charts import Curve
from trainer.demo_looks import look_at
from trainer.demo_page import Demo, Look, Recorded, Run, Story, render_page
from trainer.evaluate import (
    WEIGHTS_FILE,
    Evaluation,
    Settings,
    describe_weights,
    environment,
    evaluate,
    num_cores,
    show_progress,
    table,
    to_model,
    world_of,
    write_json,
)
from trainer.metrics import LOG, read_log
from trainer.run_directory import MODEL
from trainer.scores import Score
from trainer.ship import TRAINING_FACTS, WITHOUT_MMFS

PROGRAM = "python -m trainer.demo"
RECIPE = "toy"
SCRATCH_RECIPE = "toy_scratch"
WEIGHTS = Path(__file__).with_name("weights")
SHIPPED = WEIGHTS / "toy"
QUICK = {
    "num_steps": 4,
    "log_every": 1,
    "data.num_rows": 2,
    "encoder_pretraining.images_per_step": 2,
}
STORY_TOKENS = 96
NUM_LOOKS = 6
SAMPLE_TASKS = ("caption", "read", "story", "label_map")
"""A held-out document of each goes into `model/samples`, for the export to check with."""


@dataclass(frozen=True)
class Options:
    """What `python -m trainer.demo` was asked for."""

    out: Path
    start: Path | None
    """The weights that the training goes on from; None: random ones."""

    minutes: float | None
    """Limit of the training; None: the recipe's."""

    quick: bool
    """Everything once, as small as possible: does it work, not what does it score."""


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
        settings = replace(settings, num_texts=2, num_pictures=1, num_steps=2)
    shipped = None
    if options.start is not None:
        with stopwatch.stage("scores of the shipped weights"):
            shipped = examine(options.start, settings, options.out / "scores_shipped.json")
    with stopwatch.stage("scores after live training"):
        live = examine(model_dir, settings, options.out / "scores_live.json")
    with stopwatch.stage("stories"):
        stories = list(tell(model, settings, num_stories=1 if options.quick else 3))
        looks = list(look(model, live))
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
        without_mmfs=recorded_without_mmfs(options.start),
        runs=tuple(training_runs(options)),
        stories=tuple(stories),
        looks=tuple(looks),
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
    page.write_text(render_page(demo), encoding="utf-8")
    print(table(live))
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in stopwatch.seconds.items()))
    print(f"wrote {page}")
    return 0


def training_facts(start: Path | None) -> dict[str, Any] | None:
    """How the weights were made that the demo goes on from; None for random weights, or if nothing stands beside them.

    Raises:
        UsageError: there are no weights.
    """
    if start is None:
        return None
    if not (start / WEIGHTS_FILE).is_file():
        raise UsageError(
            f"{start} holds no {WEIGHTS_FILE} to go on from. Name a directory that does: --from DIR, or begin with "
            "random weights: --from none."
        )
    facts = start / TRAINING_FACTS
    return json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else None


def recorded_without_mmfs(start: Path | None) -> Recorded | None:
    """The scores that came with the weights, of the same model trained without MMFS; None if there are none."""
    file = start / WITHOUT_MMFS if start is not None else None
    if file is None or not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    scores = {
        task: {name: Score(**values) for name, values in result["scores"].items()}
        for task, result in content["tasks"].items()
    }
    return Recorded(scores, content["training"])


def training_arguments(options: Options) -> list[str]:
    """What the demo gives to `python -m trainer.pretrain`; started again, it goes on or is already done."""
    settings: dict[str, Any] = {"out": options.out}
    if options.start is not None:
        settings["init"] = options.start
    if options.quick:
        settings |= QUICK
        if options.start is None:
            settings["encoder_pretraining.num_steps"] = 2
    if options.minutes is not None:
        settings["max_minutes"] = options.minutes
    recipe = SCRATCH_RECIPE if options.start is None else RECIPE
    return [recipe, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def examine(model_dir: Path, settings: Settings, file: Path) -> Evaluation:
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


def held_out(model: MMInterleaved, settings: Settings, task: str, count: int) -> list[Document]:
    """The first validation documents of a family."""
    image_px = picture_px(model.config.vision.picture_shape[0])
    options = TaskOptions(settings.num_concepts, image_px, settings.num_sprites)
    return documents(task, "val", 0, count, seed=settings.data_seed, options=options)


def tell(model: MMInterleaved, settings: Settings, *, num_stories: int) -> Iterator[Story]:
    """Let the model go on from the first sentence of held-out stories, in text and pictures as it likes."""
    for index, document in enumerate(held_out(model, settings, "story", num_stories)):
        prompt = prompt_of(document)
        written = model.generate(
            to_model(prompt, model.config.vision.picture_shape[0]),
            mode="auto",
            max_new_tokens=STORY_TOKENS,
            max_new_images=4,
            num_inference_steps=settings.num_steps,
            guidance_scale=settings.guidance_scale,
            seed=settings.seed + index,
        )
        yield Story(tuple(prompt), tuple(written))


def look(model: MMInterleaved, evaluation: Evaluation) -> Iterator[Look]:
    """Where the model looks to answer the first questions of the reading examination; nothing without MMFS."""
    if len(model.language_model.synchronizers):
        for one in evaluation.tasks["read"].answered[:NUM_LOOKS]:
            yield look_at(model, one.document, str(one.answer))


def write_samples(model: MMInterleaved, settings: Settings, folder: Path) -> None:
    """Held-out documents beside the model, in the form that `python -m export.trt` reads."""
    folder.mkdir(exist_ok=True)
    listed = []
    for task in SAMPLE_TASKS:
        [document] = held_out(model, settings, task, 1)
        segments: list[dict[str, str]] = []
        for segment in document.segments:
            if isinstance(segment, Text):
                segments.append({"text": segment.text})
            else:
                file = folder / f"{task}_{len(segments)}.png"
                PILImage.fromarray(segment.pixels).save(file)
                segments.append({"image": file.name})
        listed.append(segments)
    (folder / "samples.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for wrong use, or that of the training or export that failed."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--from",
        dest="start",
        default=str(SHIPPED),
        metavar="DIR",
        help="the weights to go on from; none: random ones. Default: those that came with the repository",
    )
    parser.add_argument("--minutes", type=float, help="train no longer than this; default: the recipe's limit")
    parser.add_argument("--quick", action="store_true", help="a few steps and documents: does everything work?")
    given = parser.parse_args(arguments)
    start = None if given.start == "none" else relative(Path(given.start))
    try:
        return run(Options(given.out, start, given.minutes, given.quick))
    except (UsageError, FileNotFoundError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def relative(path: Path) -> Path:
    """Seen from the working directory where it lies below it, so that commands on the page mean something elsewhere."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
