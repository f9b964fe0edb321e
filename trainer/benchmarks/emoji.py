"""The emoji world as a benchmark: held-out documents of each family, scored as by `python -m trainer.evaluate` without
`--benchmark`, with what every benchmark's run has: it goes on, with any number of processes, and judges exports too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.benchmarks.benchmark import Benchmark, Source
from trainer.benchmarks.sample import Rendered, Sample, Segment, Split
from trainer.benchmarks.scoring import Cleaning, Prediction, Scores
from trainer.data.document import Document, Text
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.emoji.world import CANVAS
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.recipes import ALL_RECIPES, DEFAULT_RECIPE

if TYPE_CHECKING:
    from PIL import Image as PILImage

PREFIX = "emoji_"
WORLD = ALL_RECIPES[DEFAULT_RECIPE]().data
SETTINGS = Settings(num_concepts=WORLD.num_concepts, num_sprites=WORLD.num_sprites)
"""The world of the default recipe, which is that of the shipped weights. A model of another world is scored by the
command without `--benchmark`, which reads the world from its run."""


def emoji_benchmark(family: str) -> Benchmark:
    """The benchmark of a task family."""
    task = EVALUATION_TASKS[family]

    def read(_images: Path, split: str, _expected: int | None) -> Split:
        options = TaskOptions(SETTINGS.num_concepts, CANVAS, SETTINGS.num_sprites)
        asked = documents(family, "val", 0, SETTINGS.num_documents(family), seed=SETTINGS.data_seed, options=options)
        return Split(split, [_sample(document, family) for document in asked], ())

    def score(samples: Sequence[Sample], predictions: Sequence[Prediction], _cleaning: Cleaning) -> Scores:
        return _graded(family, samples, [str(said).strip() for said in predictions], CANVAS)

    def score_images(samples: Sequence[Sample], images: Sequence[PILImage.Image]) -> Scores:
        return _graded(family, samples, images, min(*images[0].size, CANVAS))

    options: dict[str, Any] = {"max_new_tokens": task.max_new_tokens}
    if task.kind == "image":
        writes_first = {"mode": "auto", **options} if task.max_new_tokens else {}
        options = {
            "num_inference_steps": SETTINGS.num_steps,
            "guidance_scale": SETTINGS.guidance_scale,
            **writes_first,
        }
    return Benchmark(
        name=f"{PREFIX}{family}",
        title=f"Emoji world: {task.title}",
        kind=task.kind,
        metric=next(iter(task.labels.values())),
        splits={"val": (Source((), read, "."),)},
        paper={},
        options=options,
        score=score if task.kind == "text" else None,
        score_images=score_images if task.kind == "image" else None,
    )


def emoji_benchmarks() -> list[Benchmark]:
    """One for each family that is evaluated unless others are asked for."""
    return [emoji_benchmark(family) for family in SETTINGS.tasks]


def _sample(document: Document, family: str) -> Sample:
    segments: list[Segment] = [
        segment.text if isinstance(segment, Text) else Rendered(segment.pixels)
        for segment in EVALUATION_TASKS[family].prompt(document)
    ]
    truth = {"document": document}
    if EVALUATION_TASKS[family].kind == "text":
        truth["answer"] = document.truth["answer"]
    return Sample(document.key, tuple(segments), truth)


def _graded(
    family: str, samples: Sequence[Sample], answers: Sequence[str] | Sequence[PILImage.Image], image_side: int
) -> Scores:
    from trainer.evaluation.grading import grade  # here, because it needs PyTorch

    task = EVALUATION_TASKS[family]
    result = grade(
        task,
        [sample.truth["document"] for sample in samples],
        list(answers),
        num_concepts=SETTINGS.num_concepts,
        image_side=image_side,
    )
    headline, *others = result.scores
    parts = {task.labels[name]: result.scores[name].mean for name in others}
    for name, score in result.scores.items():
        if score.chance is not None:
            parts[f"chance: {task.labels[name]}"] = score.chance
    by_sample = {
        sample.id: one.scores[headline]
        for sample, one in zip(samples, result.answered, strict=True)
        if headline in one.scores
    }
    return Scores(result.scores[headline].mean, result.scores[headline].standard_error, by_sample, parts)
