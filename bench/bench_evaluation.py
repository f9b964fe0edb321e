"""What `python -m trainer.evaluate --benchmark` costs: answers in batches against a plain loop, and scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from bench.model_sides import time_both
from bench.workloads import Scale
from models import MMInterleaved
from models.generation.documents import PromptSegment
from trainer.benchmarks.answering import Asking, answers_in_words
from trainer.benchmarks.batches import batches_of, groups_of
from trainer.benchmarks.sample import ImageFile, Sample
from trainer.benchmarks.small_folders import scenes
from trainer.scorers.cider import cider
from trainer.scorers.frechet import RunningStatistics, frechet_distance

TOY = Path(__file__).parents[1] / "trainer/weights/toy"
QUESTIONS = ("the {name}", "a {name}", "one {name}", "that {name}", "this {name} here")
BATCH_SIZE = 40


@pytest.fixture(scope="module")
def toy() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY, device="cpu")


def questions(folder: Path, num_images: int) -> list[Sample]:
    """Five a scene, each of a thing in it."""
    samples = []
    for scene in scenes(num_images):
        path = folder / f"{scene.number}.png"
        scene.image.save(path)
        for place, wording in enumerate(QUESTIONS):
            document = (ImageFile(path), wording.format(name=scene.name))
            samples.append(Sample(f"{scene.number}-{place}", document))
    return samples


def one_by_one(model: MMInterleaved, samples: Sequence[Sample], options: Mapping[str, Any]) -> dict[str, str]:
    """A plain loop: every image is opened and encoded for every question."""
    answers = {}
    for sample in samples:
        [image] = sample.images
        with Image.open(image.path) as opened:
            document: list[PromptSegment] = [opened.convert("RGB"), str(sample.document[1])]
        answers[sample.id] = model.generate(document, task="grounding", **options).text
    return answers


def in_batches(model: MMInterleaved, samples: Sequence[Sample], options: Mapping[str, Any]) -> dict[str, str]:
    """As the command does it."""
    batches = batches_of(groups_of(samples), BATCH_SIZE)
    answered = answers_in_words(model, batches, Asking("grounding", options))
    return {one.id: str(one.prediction) for batch in answered for one in batch}


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "3-beams"])
def bench_questions_against_a_plain_loop(
    toy: MMInterleaved,
    num_beams: int,
    benchmark: BenchmarkFixture,
    num_threads: int,
    scale: Scale,
    tmp_path: Path,
) -> None:
    """Five questions an image, answered with 16 tokens at most. Target: 4 times faster, with the same answers."""
    samples = questions(tmp_path, 2 if scale == "smoke" else 24)
    options = {"max_new_tokens": 4 if scale == "smoke" else 16, "num_beams": num_beams, "mode": "text"}
    ours, theirs = in_batches(toy, samples, options), one_by_one(toy, samples, options)
    different = [key for key in theirs if ours[key] != theirs[key]]
    assert not different, f"{len(different)} of {len(theirs)} answers differ, the first is {different[0]}"
    time_both(
        benchmark,
        lambda: in_batches(toy, samples, options),
        lambda: one_by_one(toy, samples, options),
        name="a loop over generate",
        rounds=1 if scale == "smoke" else 5,
        error=0.0,
        device="cpu",
    )


def bench_cider(benchmark: BenchmarkFixture, scale: Scale) -> None:
    """Captions with five references each, words split and all. Target: 40,000 in 30 seconds of one core."""
    num = 100 if scale == "smoke" else 40_000
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(5000)] + ["a", "the", "dog", "on", "with", "Mike's", "isn't", "t-shirt"]
    chances = 1 / np.arange(1, len(words) + 1)
    drawn = generator.choice(len(words), size=(num, 6, 11), p=chances / chances.sum())
    texts = [[" ".join(words[word] for word in text) + "." for text in image] for image in drawn]
    captions, references = [image[0] for image in texts], [image[1:] for image in texts]
    scores = benchmark.pedantic(lambda: cider(captions, references), rounds=1)
    assert scores.shape == (num,)
    assert np.isfinite(scores).all()
    assert scores.max() > 0


def bench_frechet_distance(benchmark: BenchmarkFixture, scale: Scale) -> None:
    """Of two sets of 2,048 features, whose distance is known: one is the other, moved. Target: 60 seconds."""
    num_features = 32 if scale == "smoke" else 2048
    features = np.random.default_rng(0).normal(size=(2 * num_features, num_features))
    moved = features + 0.5

    def distance() -> float:
        statistics = []
        for values in (features, moved):
            running = RunningStatistics(num_features)
            running.add(values)
            statistics.append(running.result())
        return frechet_distance(*statistics)

    found = benchmark.pedantic(distance, rounds=1)
    assert found == pytest.approx(0.25 * num_features, rel=1e-6)
