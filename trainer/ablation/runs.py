"""One run of a study: trained, evaluated, and its result kept, so that it is never made twice."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models import MMInterleaved
from models.json_files import write_json
from trainer.ablation.measures import Level, levels
from trainer.ablation.plan import Run
from trainer.ablation.scales import Scale
from trainer.ablation.starts import make_start, start_of
from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.evaluation.evaluated_model import describe_weights
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.progress import show_progress
from trainer.evaluation.settings import Settings
from trainer.options.changed_settings import changed_settings
from trainer.run import make_run
from trainer.run_directory import is_finished
from trainer.run_files import CHECKPOINTS, MODEL

RESULT = "result.json"
SPENT = "spent.json"
"""Beside the run: seconds that it took so far, all attempts together."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    training: dict[str, Any]
    """`TrainConfig.to_dict()`."""

    evaluation: dict[str, Any]
    """`trainer.evaluation.settings.Settings` as a dictionary."""

    scores: dict[str, dict[str, Level]]
    """By task and name."""

    wall_s: float
    cpu_s: float
    """Of this process; workers that made the data are not in it."""

    weights: dict[str, Any]

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: Path) -> Result:
        """The inverse of `save`."""
        content = json.loads(file.read_text(encoding="utf-8"))
        scores = {
            task: {name: Level(**level) for name, level in found.items()} for task, found in content["scores"].items()
        }
        return cls(**content | {"scores": scores})


@dataclass(frozen=True)
class Bench:
    """Where runs are made, and with what."""

    scale: Scale
    out: Path
    """The directory of all runs."""

    encoder: Path
    """A model with a pre-trained visual tokenizer."""

    def training(self, run: Run, max_minutes: float | None = None) -> TrainConfig:
        """How a run is trained."""
        return run.config(self.scale, self.out, start_of(run, self.encoder, self.out), max_minutes)

    def evaluation_settings(self, run: Run) -> Settings:
        """How a run is evaluated."""
        world = self.training(run).data
        return Settings(
            tasks=tuple(run.lesson.tasks),
            num_texts=self.scale.num_texts,
            num_images=self.scale.num_images,
            num_steps=self.scale.num_drawing_steps,
            num_concepts=world.num_concepts,
            num_sprites=world.num_sprites,
        )

    def result(self, run: Run) -> Result | None:
        """What a run came to, None if it is not done.

        Raises:
            UsageError: it was made with other settings.
        """
        file = self.out / run.place / RESULT
        if not file.is_file():
            return None
        result = Result.load(file)
        changed = changed_settings(result.training, self.training(run))
        changed += changed_settings(result.evaluation, self.evaluation_settings(run))
        if changed:
            raise UsageError(
                f"{file.parent} was made with other settings (there -> now): {'; '.join(changed)}. Remove it, or make "
                "all runs elsewhere: --out DIR."
            )
        return result

    def make(self, run: Run, max_minutes: float | None) -> int | None:
        """Train and evaluate a run, or go on where an earlier call was stopped.

        Args:
            run: what to make.
            max_minutes: pause the training after so many; None: no limit.

        Returns:
            0 when its result is there, None when `max_minutes` ended first, else the exit code of the training that was
            stopped.
        """
        make_start(run, self.training(run), self.encoder, self.out)
        directory = self.out / run.place
        with spending(directory) as spent:
            if not is_finished(directory):
                status = make_run(self.training(run, max_minutes))
                if status:
                    return status
                if not is_finished(directory):
                    return None
            model = MMInterleaved.from_pretrained(directory / MODEL)
            weights = describe_weights(directory / MODEL, model)
            settings = self.evaluation_settings(run)
            evaluation = evaluate(model, settings, weights=weights, progress=show_progress)
            show_progress("")
        scores = levels(evaluation.tasks)
        training = self.training(run).to_dict()
        Result(training, asdict(settings), scores, spent["wall_s"], spent["cpu_s"], weights).save(directory / RESULT)
        shutil.rmtree(directory / CHECKPOINTS)  # nothing will go on from them
        return 0


@contextmanager
def spending(directory: Path) -> Iterator[dict[str, float]]:
    """Add the seconds of the block to those that earlier blocks have spent on the same run."""
    file = directory / SPENT
    spent = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"wall_s": 0.0, "cpu_s": 0.0}
    begun = {"wall_s": time.monotonic(), "cpu_s": time.process_time()}
    try:
        yield spent
    finally:
        spent["wall_s"] += time.monotonic() - begun["wall_s"]
        spent["cpu_s"] += time.process_time() - begun["cpu_s"]
        directory.mkdir(parents=True, exist_ok=True)
        write_json(file, spent)
