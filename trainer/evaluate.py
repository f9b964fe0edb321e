"""`python -m trainer.evaluate MODEL_DIR`: how well a model reads and draws held-out documents, with chance beside it.

The documents are those of the validation split: each shows a sprite on a colour, or two sprites together, that training
pictures never do. Every answer comes from `MMInterleaved.generate`, greedily for text and with guidance for pictures.
`trainer.exams` says what the model is given and how an answer is scored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from models import MMInterleaved
from models.tensor_files import WEIGHTS_FILE
from trainer.config import TrainConfig, UsageError
from trainer.data.document import Document, Segment, Text
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, TaskOptions, documents
from trainer.data.emoji.world import CANVAS
from trainer.data.stream import DataConfig, picture_px
from trainer.exams import EXAMS, Answer, Exam
from trainer.interrupt import ignore_in_worker
from trainer.options import load
from trainer.picture_scores import to_float
from trainer.recipes import ALL_RECIPES, DEFAULT_RECIPE
from trainer.scores import Score, chance_levels

PROGRAM = "python -m trainer.evaluate"
PACKAGES = ("torch", "transformers", "diffusers", "tokenizers", "numpy")
MAX_SHIFTS = {"text": 48, "picture": 4}
"""How many other documents' answers each document is scored with to measure chance."""

Written = str | PILImage.Image


@dataclass(frozen=True)
class Settings:
    """What decides the result of an evaluation, given the weights."""

    tasks: tuple[str, ...] = PRETRAINING_FAMILIES
    num_texts: int = 48
    """Documents of each family that is answered in writing: validation documents 0, 1, 2, ..."""

    num_pictures: int = 24
    """Documents of each family that is answered with a picture."""

    num_steps: int = 24
    """Denoising steps a picture."""

    guidance_scale: float = 2.0
    seed: int = 0
    """Picture i starts from the noise of seed + i."""

    data_seed: int = 0
    num_concepts: int = 32
    num_sprites: int = 9

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in EXAMS]
        if unknown or not self.tasks:
            raise UsageError(f"tasks are {list(self.tasks)}; expected some of {', '.join(EXAMS)}.")
        for name in ("num_texts", "num_pictures", "num_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more.")

    def num_documents(self, task: str) -> int:
        """How many documents of a family are examined."""
        return self.num_texts if EXAMS[task].kind == "text" else self.num_pictures


@dataclass(frozen=True, eq=False)
class Answered:
    """One document, what the model made of it, and how right that is."""

    document: Document
    answer: Written
    scores: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the headline score is full."""
        return next(iter(self.scores.values())) == 1


@dataclass(frozen=True, eq=False)
class TaskResult:
    """One family's examination."""

    answered: tuple[Answered, ...]
    scores: dict[str, Score]
    wall_s: float
    """Seconds in `generate`, of all workers together."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of one model."""

    tasks: dict[str, TaskResult]
    settings: Settings
    weights: dict[str, Any]
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with all that is needed to do it again; drawn pictures are left out."""
        return {
            "settings": asdict(self.settings),
            "weights": self.weights,
            "environment": environment(),
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


Progress = Callable[[str], None]


def evaluate(
    model: MMInterleaved,
    settings: Settings,
    *,
    weights: dict[str, Any],
    num_workers: int = 0,
    progress: Progress = lambda _line: None,
) -> Evaluation:
    """Examine a model.

    Args:
        model: with a processor, in evaluation mode.
        settings: which documents, and how answers are generated.
        weights: what to record about the weights; see `describe_weights`.
        num_workers: processes that answer, each with one thread and its own copy of the model; 0: this one. The model
            is too small to keep more than one core busy.
        progress: gets a line after each answer.
    """
    begun = time.monotonic()
    options = TaskOptions(
        num_concepts=settings.num_concepts,
        image_px=picture_px(model.config.vision.picture_shape[0]),
        num_sprites=settings.num_sprites,
    )
    asked = {
        task: documents(task, "val", 0, settings.num_documents(task), seed=settings.data_seed, options=options)
        for task in settings.tasks
    }
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
        progress(_progress_line(asked, written, seconds, max(num_workers, 1)))
    side_px = min(*model.config.image_decoder.picture_shape, CANVAS)
    results = {
        task: grade(
            EXAMS[task],
            asked[task],
            written[task],
            num_concepts=settings.num_concepts,
            side_px=side_px,
            wall_s=seconds[task],
        )
        for task in asked
    }
    return Evaluation(results, settings, weights, time.monotonic() - begun)


@dataclass(frozen=True, eq=False)
class Job:
    """A document to answer."""

    document: Document
    index: int
    """Its number within its family: what the seed of a picture counts on from."""


def answer_all(
    model: MMInterleaved, jobs: Sequence[Job], settings: Settings, num_workers: int
) -> Iterator[tuple[Written, float]]:
    """The answer to each job and the seconds it took, in order."""
    if num_workers == 0:
        yield from (timed_answer(model, job, settings) for job in jobs)
        return
    # Processes that start afresh: a fork of one that has used OpenMP threads may hang.
    copy = pickle.dumps((model, settings))
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _begin_work, (copy,)) as pool:
        yield from pool.map(_work, jobs)


_examinee: tuple[MMInterleaved, Settings]
"""In a worker: whom it asks."""


def _begin_work(copy: bytes) -> None:
    global _examinee
    ignore_in_worker(0)
    torch.set_num_threads(1)
    _examinee = pickle.loads(copy)


def _work(job: Job) -> tuple[Written, float]:
    model, settings = _examinee
    return timed_answer(model, job, settings)


def timed_answer(model: MMInterleaved, job: Job, settings: Settings) -> tuple[Written, float]:
    """The answer to a job, and the seconds it took."""
    start = time.monotonic()
    exam = EXAMS[job.document.task]
    return answer(model, job.document, exam, settings, seed=job.index), time.monotonic() - start


def answer(model: MMInterleaved, document: Document, exam: Exam, settings: Settings, *, seed: int) -> Written:
    """What the model says to a document: text (perhaps empty), or a picture."""
    return go_on(model, exam.prompt(document), settings, max_new_tokens=exam.max_new_tokens, seed=seed)


def go_on(
    model: MMInterleaved, given: Sequence[Segment], settings: Settings, *, max_new_tokens: int, seed: int
) -> Written:
    """What the model writes after some segments, or with `max_new_tokens` 0 draws after them."""
    segments = to_model(given, model.config.vision.picture_shape[0])
    if max_new_tokens:
        written = model.generate(segments, mode="text", max_new_tokens=max_new_tokens)
        return "".join(piece for piece in written if isinstance(piece, str)).strip()
    [picture] = model.generate(
        segments,
        mode="image",
        max_new_images=1,
        num_inference_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed + seed,
    )
    return picture


def to_model(segments: Sequence[Segment], image_px: int) -> list[Written]:
    """A document's segments as `generate` takes them; pictures are averaged down as in training."""
    return [
        segment.text if isinstance(segment, Text) else shrunk_picture(segment.pixels, image_px) for segment in segments
    ]


def shrunk_picture(pixels: np.ndarray, side_px: int) -> PILImage.Image:
    """uint8 [H, H, 3] averaged down to `side_px`, which divides H."""
    return PILImage.fromarray(np.rint(to_float(pixels, side_px) * 255).astype(np.uint8))


def grade(
    exam: Exam,
    asked: Sequence[Document],
    written: Sequence[Written],
    *,
    num_concepts: int,
    side_px: int,
    wall_s: float = 0.0,
) -> TaskResult:
    """Score the answers of one family, the truth itself, and chance.

    Args:
        exam: of the family.
        asked: its documents.
        written: the answer to each.
        num_concepts: how many sprites a drawn one is told from.
        side_px: pictures are compared at this size; it divides the size of the drawn ones.
        wall_s: seconds that the answers took.
    """

    def score(given: Answer, document: Document) -> dict[str, float]:
        return exam.score(given, document, num_concepts)

    truths = {document.key: exam.true_answer(document, side_px) for document in asked}
    best = {document.key: score(truths[document.key], document) for document in asked}

    def score_other(owner: Document, document: Document) -> dict[str, float]:
        scores = score(truths[owner.key], document)
        return {name: scores[name] for name in best[owner.key].keys() & best[document.key].keys()}

    chance = chance_levels(asked, score_other, max_shifts=MAX_SHIFTS[exam.kind])
    answered = tuple(
        Answered(document, one, score(_scorable(one, side_px), document))
        for document, one in zip(asked, written, strict=True)
    )
    names = [name for name in exam.labels if any(name in its for its in best.values())]
    scores = {
        name: Score.of(
            [one.scores[name] for one in answered if name in one.scores],
            chance=chance.get(name),
            ceiling=float(np.mean([its[name] for its in best.values() if name in its])),
        )
        for name in names
    }
    return TaskResult(answered, scores, wall_s)


def _scorable(written: Written, side_px: int) -> Answer:
    return written if isinstance(written, str) else to_float(np.asarray(written), side_px)


def _in_words(written: Written) -> str:
    return written if isinstance(written, str) else f"picture of {written.width} x {written.height} px"


def _progress_line(
    asked: dict[str, list[Document]], written: dict[str, list[Written]], seconds: dict[str, float], num_workers: int
) -> str:
    done, in_all = sum(map(len, written.values())), sum(map(len, asked.values()))
    if all(written.values()):
        left_s = sum(seconds[task] / len(written[task]) * (len(asked[task]) - len(written[task])) for task in asked)
        left_s /= num_workers
        return f"evaluation {done}/{in_all} documents  {int(left_s) // 60}:{int(left_s) % 60:02} left"
    return f"evaluation {done}/{in_all} documents"


def describe_weights(model_dir: Path, model: MMInterleaved) -> dict[str, Any]:
    """Which weights a directory holds."""
    with (model_dir / WEIGHTS_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "sha256": digest,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "has_mmfs": model.config.language_model.mmfs is not None,
    }


def environment() -> dict[str, Any]:
    """Machine and versions."""
    return {
        "machine": cpu_name(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def cpu_name() -> str:
    """The processor as it calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def world_of(model_dir: Path, config_file: Path | None) -> DataConfig:
    """The world that a model is examined in: of the given settings, else of its run, else of the default recipe."""
    beside = model_dir.parent / "config.yaml"
    file = config_file if config_file is not None else beside if beside.is_file() else None
    config: TrainConfig = load(file, ALL_RECIPES) if file is not None else ALL_RECIPES[DEFAULT_RECIPE]()
    return config.data


def table(evaluation: Evaluation) -> str:
    """The scores as text."""
    lines = [f"{'task':<10} {'score':<42} {'model':>14} {'chance':>7}"]
    for task, result in evaluation.tasks.items():
        for name, score in result.scores.items():
            chance = "-" if score.chance is None else f"{score.chance:.3f}"
            mean = f"{score.mean:.3f} ± {score.standard_error:.3f}"
            lines.append(f"{task:<10} {EXAMS[task].labels[name]:<42} {mean:>14} {chance:>7}")
    return "\n".join(lines)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Readable, one value a line."""
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show_progress(line: str) -> None:
    """One line on the terminal that renews itself; nothing where there is no terminal but the last one."""
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for wrong use."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="what MMInterleaved.save_pretrained wrote")
    parser.add_argument(
        "--tasks", nargs="+", default=list(defaults.tasks), metavar="TASK", help=f"of {', '.join(EXAMS)}"
    )
    parser.add_argument(
        "--count", type=int, default=defaults.num_texts, help="documents of each family answered in writing"
    )
    parser.add_argument(
        "--num_pictures", type=int, help="documents of each family answered with a picture; default: half of --count"
    )
    parser.add_argument("--num_steps", type=int, default=defaults.num_steps, help="denoising steps a picture")
    parser.add_argument("--guidance_scale", type=float, default=defaults.guidance_scale, help="1 is none")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the pictures' noise")
    parser.add_argument(
        "--num_workers", type=int, default=num_cores(), help="processes that answer; 0: this one; default: %(default)s"
    )
    parser.add_argument("--config", type=Path, help="a run's config.yaml, for its world; default: the model's own run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all results as JSON")
    given = parser.parse_args(arguments)
    if given.num_workers < 0:
        parser.error(f"--num_workers is {given.num_workers}; expected 0 or more.")
    try:
        world = world_of(given.model_dir, given.config)
        settings = Settings(
            tasks=tuple(given.tasks),
            num_texts=given.count,
            num_pictures=max(given.count // 2, 1) if given.num_pictures is None else given.num_pictures,
            num_steps=given.num_steps,
            guidance_scale=given.guidance_scale,
            seed=given.seed,
            num_concepts=world.num_concepts,
            num_sprites=world.num_sprites,
        )
        model = MMInterleaved.from_pretrained(given.model_dir)
    except (UsageError, OSError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    result = evaluate(
        model,
        settings,
        weights=describe_weights(given.model_dir, model),
        num_workers=given.num_workers,
        progress=show_progress,
    )
    show_progress("")
    print(table(result))
    print(f"{result.wall_s:.0f} s; weights {result.weights['sha256'][:12]}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, result.to_dict())
        print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
