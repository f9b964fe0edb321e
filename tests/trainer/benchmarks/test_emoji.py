from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.benchmarks.answering import Asking, answers_in_words, drawings
from trainer.benchmarks.drawn import Judges, score_drawn
from trainer.benchmarks.emoji import SETTINGS, emoji_benchmark
from trainer.benchmarks.sample import Rendered
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.tasks import EVALUATION_TASKS

NO_FOLDER = Path("none")


def test_texts_are_scored_as_without_benchmark(shipped) -> None:
    benchmark = emoji_benchmark("caption")
    samples = benchmark.open(NO_FOLDER, "val").samples[:6]
    asking = Asking(None, {"mode": "text", **benchmark.options})
    [answered] = answers_in_words(shipped, iter([list(samples)]), asking)
    ours = benchmark.score(samples, [one.prediction for one in answered], "plain")
    theirs = evaluate(shipped, replace(SETTINGS, tasks=("caption",), num_texts=6), weights={}).tasks["caption"].scores
    assert ours.value == pytest.approx(theirs["exact"].mean)
    labels = EVALUATION_TASKS["caption"].labels
    for name in ("sprites", "colour", "relation"):
        assert ours.parts[labels[name]] == pytest.approx(theirs[name].mean)
    assert ours.parts[f"chance: {labels['exact']}"] == pytest.approx(theirs["exact"].chance)


def test_true_images_are_right_and_blank_ones_are_not(tmp_path) -> None:
    benchmark = emoji_benchmark("draw")
    split = benchmark.open(NO_FOLDER, "val")
    samples = split.samples[:4]
    names = {sample.id: tmp_path / f"{number}.png" for number, sample in enumerate(samples)}
    judges = Judges(torch.device("cpu"))
    judges.check(benchmark)

    def scored(paint) -> float:
        for sample in samples:
            paint(sample).save(names[sample.id])
        arguments = (names.__getitem__, judges, "64", tmp_path / "s.npz", lambda _line: None)
        return score_drawn(benchmark, split, samples, *arguments).value

    assert scored(lambda sample: Image.fromarray(sample.truth["document"].segments[-1].pixels)) == 1
    assert scored(lambda _sample: Image.new("RGB", (64, 64), "red")) == 0


@pytest.mark.parametrize("family", SETTINGS.tasks)
def test_every_family_has_samples(family) -> None:
    split = emoji_benchmark(family).open(NO_FOLDER, "val")
    assert len(split.samples) == SETTINGS.num_documents(family)
    begins_with_text = family in ("draw", "arrange_steps")
    assert any(isinstance(segment, Rendered) for segment in split.samples[0].document) != begins_with_text
    assert not split.image_paths


@pytest.mark.parametrize("family", ["label_map_steps", "story_steps", "arrange_steps"])
def test_what_is_drawn_may_be_written_first(family, shipped) -> None:
    benchmark = emoji_benchmark(family)
    samples = benchmark.open(NO_FOLDER, "val").samples[:2]
    asking = Asking(None, benchmark.options | {"num_inference_steps": 1})
    [drawn] = drawings(shipped, iter([list(samples)]), asking, drawn_before=lambda _id: Image.new("RGB", (1, 1)))
    assert [one.image.size for one in drawn] == [(32, 32)] * 2
