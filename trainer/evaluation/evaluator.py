"""A model evaluated: every family asked, answered and graded."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from models import MMInterleaved
from trainer.data.emoji.world import CANVAS
from trainer.evaluation.answers import Job, Written, answer_all
from trainer.evaluation.grading import TaskResult, grade
from trainer.evaluation.held_out import held_out
from trainer.evaluation.progress import Progress, progress_line
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.process.environment import environment


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of one model."""

    tasks: dict[str, TaskResult]
    settings: Settings
    weights: dict[str, Any]
    wall_s: float
    device: str = "cpu"
    """A GPU by its name."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with all that is needed to do it again; drawn images are left out."""
        return {
            "settings": asdict(self.settings),
            "weights": self.weights,
            "environment": environment(),
            "device": self.device,
            "wall_s": round(self.wall_s, 1),
            "tasks": {
                name: {
                    "wall_s": round(result.wall_s, 1),
                    "scores": {score: asdict(value) for score, value in result.scores.items()},
                    "documents": [
                        {"key": one.document.key, "answer": _in_words(one.answer), "scores": one.scores}
                        for one in result.answered
                    ],
                }
                for name, result in self.tasks.items()
            },
        }


def evaluate(
    model: MMInterleaved,
    settings: Settings,
    *,
    weights: dict[str, Any],
    num_workers: int = 0,
    progress: Progress = lambda _line: None,
) -> Evaluation:
    """Evaluate a model.

    Args:
        model: with a processor, in evaluation mode.
        settings: which documents, and how answers are generated.
        weights: what to record about the weights; see `describe_weights`.
        num_workers: processes that answer, each with one thread and its own copy of the model; 0: this one. The model
            is too small to keep more than one core busy.
        progress: gets a line after each answer.
    """
    begun = time.monotonic()
    asked = {task: held_out(model, settings, task, settings.num_documents(task)) for task in settings.tasks}
    written: dict[str, list[Written]] = {task: [] for task in asked}
    seconds = dict.fromkeys(asked, 0.0)
    # A document of each family in turn, so that the time left is known after the first round.
    jobs = [
        Job(its_documents[index], index)
        for index in range(max(map(len, asked.values())))
        for its_documents in asked.values()
        if index < len(its_documents)
    ]
    for job, (one, spent_s) in zip(jobs, answer_all(model, jobs, settings, num_workers), strict=True):
        written[job.document.task].append(one)
        seconds[job.document.task] += spent_s
        progress(progress_line(asked, written, seconds, max(num_workers, 1)))
    image_side = min(*model.config.drawn_image_size, CANVAS)
    results = {
        task: grade(
            EVALUATION_TASKS[task],
            asked[task],
            written[task],
            num_concepts=settings.num_concepts,
            image_side=image_side,
            wall_s=seconds[task],
        )
        for task in asked
    }
    on_gpu = model.device.type == "cuda"
    device = torch.cuda.get_device_name(model.device) if on_gpu else str(model.device)
    return Evaluation(results, settings, weights, time.monotonic() - begun, device)


def table(evaluation: Evaluation) -> str:
    """The scores as text."""
    lines = [f"{'task':<10} {'score':<42} {'model':>14} {'chance':>7}"]
    for task, result in evaluation.tasks.items():
        for name, score in result.scores.items():
            chance = "-" if score.chance is None else f"{score.chance:.3f}"
            mean = f"{score.mean:.3f} ± {score.standard_error:.3f}"
            lines.append(f"{task:<10} {EVALUATION_TASKS[task].labels[name]:<42} {mean:>14} {chance:>7}")
    return "\n".join(lines)


def _in_words(written: Written) -> str:
    return written if isinstance(written, str) else f"image of {written.width} x {written.height} px"
