"""The score of a split's predictions, with what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import numpy as np

from trainer.benchmarks.sample import Sample
from trainer.scorers.answers import exact_answer, first_sentence, one_line, released_answer, short_answer
from trainer.scorers.boxes import IOU_NEEDED, box_iou
from trainer.scorers.cider import cider
from trainer.scorers.ndcg import rank_options
from trainer.scorers.vqa_accuracy import textvqa_accuracy, vizwiz_accuracy, vqa_accuracy

Cleaning = Literal["plain", "release"]
"""What counts as the answer in what was written: the first line, or what the rules of the released code leave of it."""

Prediction = str | Sequence[float]
"""Text; or a score for each candidate."""


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of predictions."""

    value: float
    """As papers print it."""

    standard_error: float | None
    """Of the mean over samples; None where the metric is no mean."""

    by_sample: Mapping[str, float]
    """Each sample's own score, in the same unit; empty where a sample has none."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """The same metric over parts of the samples, and metrics beside it, by what they are."""

    notes: Sequence[str] = ()
    """What has to be said beside the value."""


TextScorer = Callable[[Sequence[Sample], Sequence[Prediction], Cleaning], Scores]
"""Samples and their predictions, in one order, to scores."""


def score_captions(samples: Sequence[Sample], predictions: Sequence[Prediction], _cleaning: Cleaning) -> Scores:
    """CIDEr times 100. How rare words are is counted in the references of the images scored. Where images belong to
    domains, each domain is scored by itself, as the server of nocaps does."""
    captions = [one_line(_text(said)) for said in predictions]
    references = [sample.truth["references"] for sample in samples]
    values = 100 * cider(captions, references)
    parts = {}
    for domain in sorted({sample.truth["domain"] for sample in samples if "domain" in sample.truth}):
        rows = [row for row, sample in enumerate(samples) if sample.truth.get("domain") == domain]
        parts[domain] = 100 * float(cider([captions[row] for row in rows], [references[row] for row in rows]).mean())
    return _mean(samples, values, parts)


def score_first_sentences(samples: Sequence[Sample], predictions: Sequence[Prediction], cleaning: Cleaning) -> Scores:
    """As :func:`score_captions`, of captions up to their first full stop: how the released code scores COCO."""
    return score_captions(samples, [first_sentence(_text(said)) for said in predictions], cleaning)


def score_vqa(samples: Sequence[Sample], predictions: Sequence[Prediction], cleaning: Cleaning) -> Scores:
    """Accuracy by the program of VQAv2, in per cent."""
    return _score_answers(samples, predictions, cleaning, vqa_accuracy)


def score_textvqa(samples: Sequence[Sample], predictions: Sequence[Prediction], cleaning: Cleaning) -> Scores:
    """Accuracy by the program of TextVQA, in per cent; that of VQAv2, which the released code used, beside it."""
    scores = _score_answers(samples, predictions, cleaning, textvqa_accuracy)
    by_vqa = _score_answers(samples, predictions, cleaning, vqa_accuracy).value
    return Scores(
        scores.value, scores.standard_error, scores.by_sample, {**scores.parts, "by the rules of VQAv2": by_vqa}
    )


def score_vizwiz(samples: Sequence[Sample], predictions: Sequence[Prediction], cleaning: Cleaning) -> Scores:
    """Accuracy by the program of VizWiz, in per cent."""
    return _score_answers(samples, predictions, cleaning, vizwiz_accuracy)


def score_gqa(samples: Sequence[Sample], predictions: Sequence[Prediction], cleaning: Cleaning) -> Scores:
    """Share of answers that are equal to the true one, in per cent. The official program compares texts as they are;
    before it, an answer is put into lower case and loses a full stop at its end."""
    clean = released_answer if cleaning == "release" else exact_answer
    values = [
        100 * float(clean(_text(said)) == sample.truth["answer"])
        for sample, said in zip(samples, predictions, strict=True)
    ]
    return _mean(samples, values, _by_types(samples, values))


def _score_answers(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    cleaning: Cleaning,
    accuracy: Callable[[str, Sequence[str]], float],
) -> Scores:
    clean = released_answer if cleaning == "release" else short_answer
    values = [
        100 * accuracy(clean(_text(said)), sample.truth["answers"])
        for sample, said in zip(samples, predictions, strict=True)
    ]
    return _mean(samples, values, _by_types(samples, values))


def score_boxes(samples: Sequence[Sample], predictions: Sequence[Prediction], _cleaning: Cleaning) -> Scores:
    """Share of boxes with an IoU of at least one half, in per cent; an answer without a box is wrong."""
    ious = [
        box_iou(_text(said), sample.truth["box"], sample.truth["width"], sample.truth["height"])
        for sample, said in zip(samples, predictions, strict=True)
    ]
    values = [100 * float(value is not None and value >= IOU_NEEDED) for value in ious]
    parts = {
        "mean IoU": 100 * fmean(value or 0.0 for value in ious),
        "answers without a box": 100 * fmean(value is None for value in ious),
    }
    return _mean(samples, values, parts)


def score_rankings(samples: Sequence[Sample], predictions: Sequence[Prediction], _cleaning: Cleaning) -> Scores:
    """NDCG times 100 over the dialogues that have a relevant option; how high the answer that was given ranks, beside
    it."""
    rankings = [
        rank_options(_numbers(said), sample.truth["relevance"], sample.truth["option"])
        for sample, said in zip(samples, predictions, strict=True)
    ]
    counted = [
        (sample, 100 * ranking.ndcg)
        for sample, ranking in zip(samples, rankings, strict=True)
        if ranking.ndcg is not None
    ]
    ranks = [ranking.rank for ranking in rankings if ranking.rank is not None]
    parts = {"mean rank": fmean(ranks), "MRR": 100 * fmean(1 / rank for rank in ranks)} | {
        f"R@{k}": 100 * fmean(rank <= k for rank in ranks) for k in (1, 5, 10)
    }
    left_out = len(samples) - len(counted)
    notes = [f"{left_out} dialogues have no relevant option and are left out"] if left_out else []
    scores = _mean([sample for sample, _ in counted], [value for _, value in counted], parts)
    return Scores(scores.value, scores.standard_error, scores.by_sample, parts, notes)


def _by_types(samples: Sequence[Sample], values: Sequence[float]) -> dict[str, float]:
    """Means over the samples of each type that the data set names."""
    parts: dict[str, list[float]] = {}
    for sample, value in zip(samples, values, strict=True):
        for name in ("answer type", "question type"):
            if sample.truth.get(name):
                parts.setdefault(f"{name} {sample.truth[name]}", []).append(value)
    return {name: fmean(its) for name, its in sorted(parts.items())}


def _mean(samples: Sequence[Sample], values: Sequence[float] | np.ndarray, parts: Mapping[str, float]) -> Scores:
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        raise ValueError("There is no sample to score.")
    error = float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else None
    by_sample = dict(zip((sample.id for sample in samples), numbers.tolist(), strict=True))
    return Scores(float(numbers.mean()), error, by_sample, parts)


def _text(prediction: Prediction) -> str:
    if not isinstance(prediction, str):
        raise ValueError(f"A prediction is a {type(prediction).__name__}; expected text.")
    return prediction


def _numbers(prediction: Prediction) -> Sequence[float]:
    if isinstance(prediction, str):
        raise ValueError("A prediction is text; expected a list of numbers, one for each option.")
    return prediction
