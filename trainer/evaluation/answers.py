"""What a model says to documents: text, greedily, or an image, with guidance; by several processes if asked."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from models import MMInterleaved
from models.generation.documents import PlainText
from models.generation.generated import Generated
from trainer.data.document import Document, Segment, Text
from trainer.evaluation.image_scores import to_float
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS, Task
from trainer.process.interrupt import ignore_in_worker

Written = str | PILImage.Image


@dataclass(frozen=True, eq=False)
class Job:
    """A document to answer."""

    document: Document
    index: int
    """Its number within its family: what the seed of an image counts on from."""


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


_evaluated: tuple[MMInterleaved, Settings]
"""In a worker process: the model that it evaluates, and the settings."""


def _begin_work(copy: bytes) -> None:
    global _evaluated
    ignore_in_worker(0)
    torch.set_num_threads(1)
    _evaluated = pickle.loads(copy)


def _work(job: Job) -> tuple[Written, float]:
    model, settings = _evaluated
    return timed_answer(model, job, settings)


def timed_answer(model: MMInterleaved, job: Job, settings: Settings) -> tuple[Written, float]:
    """The answer to a job, and the seconds it took."""
    start = time.monotonic()
    task = EVALUATION_TASKS[job.document.task]
    return answer(model, job.document, task, settings, seed=job.index), time.monotonic() - start


def answer(model: MMInterleaved, document: Document, task: Task, settings: Settings, *, seed: int) -> Written:
    """What the model says to a document: text (perhaps empty), or an image."""
    given = task.prompt(document)
    if task.kind == "image" and task.max_new_tokens:
        return plan_and_draw(model, given, settings, max_new_tokens=task.max_new_tokens, seed=seed)
    return go_on(model, given, settings, max_new_tokens=task.max_new_tokens, seed=seed)


def drawing_options(settings: Settings, number: int) -> dict[str, Any]:
    """Of `generate`, for the image with this number."""
    return {
        "num_inference_steps": settings.num_steps,
        "guidance_scale": settings.guidance_scale,
        "seed": settings.seed + number,
    }


def plan_and_draw(
    model: MMInterleaved, given: Sequence[Segment], settings: Settings, *, max_new_tokens: int, seed: int
) -> PILImage.Image:
    """What the model draws after it has written what it will draw."""
    written = model.generate(
        to_model(given, model.config.image_size[0]),
        mode="auto",
        max_new_tokens=max_new_tokens,
        max_new_images=1,
        **drawing_options(settings, seed),
    )
    return first_image(written, model.config.drawn_image_size)


def first_image(written: Generated, drawn_image_size: tuple[int, int]) -> PILImage.Image:
    """The first image that was drawn; a gray one, (height, width), if the model only wrote."""
    height, width = drawn_image_size
    return next(iter(written.images), PILImage.new("RGB", (width, height), "gray"))


def go_on(
    model: MMInterleaved, given: Sequence[Segment], settings: Settings, *, max_new_tokens: int, seed: int
) -> Written:
    """What the model writes after some segments, or with `max_new_tokens` 0 draws after them."""
    segments = to_model(given, model.config.image_size[0])
    if max_new_tokens:
        written = model.generate(segments, mode="text", max_new_tokens=max_new_tokens)
        return "".join(piece for piece in written if isinstance(piece, str)).strip()
    [image] = model.generate(
        segments,
        mode="image",
        max_new_images=1,
        **drawing_options(settings, seed),
    )
    return image


def to_model(segments: Sequence[Segment], image_side: int) -> list[Written]:
    """A document's segments as `generate` takes them; images are averaged down as in training."""
    return [
        PlainText(segment.text) if isinstance(segment, Text) else shrunk_image(segment.pixels, image_side)
        for segment in segments
    ]


def shrunk_image(pixels: np.ndarray, image_side: int) -> PILImage.Image:
    """uint8 [H, H, 3] averaged down to `image_side`, which divides H."""
    return PILImage.fromarray(np.rint(to_float(pixels, image_side) * 255).astype(np.uint8))
