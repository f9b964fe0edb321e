"""Predictions in the forms that the data sets' own servers take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.benchmarks.sample import Sample
from trainer.benchmarks.scoring import Prediction
from trainer.scorers.answers import exact_answer, one_line, short_answer


def vqa_submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """`[{question_id, answer}]`: VQAv2, OK-VQA, TextVQA."""
    return [
        {"question_id": int(sample.id), "answer": short_answer(str(said))}
        for sample, said in zip(samples, predictions, strict=True)
    ]


def vizwiz_submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """`[{image, answer}]`."""
    return [
        {"image": sample.id, "answer": short_answer(str(said))}
        for sample, said in zip(samples, predictions, strict=True)
    ]


def gqa_submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """`[{questionId, prediction}]`."""
    return [
        {"questionId": sample.id, "prediction": exact_answer(str(said))}
        for sample, said in zip(samples, predictions, strict=True)
    ]


def caption_submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """`[{image_id, caption}]`: COCO, nocaps."""
    return [
        {"image_id": int(sample.id), "caption": one_line(str(said))}
        for sample, said in zip(samples, predictions, strict=True)
    ]


def visdial_submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """`[{image_id, round_id, ranks}]`: the rank of each option, from 1."""
    submission = []
    for sample, scores in zip(samples, predictions, strict=True):
        if isinstance(scores, str):
            raise ValueError(f"The prediction of {sample.id} is text; expected a score for each option.")
        order = sorted(range(len(scores)), key=lambda option: -scores[option])
        ranks = {option: rank for rank, option in enumerate(order, 1)}
        submission.append(
            {
                "image_id": int(sample.id),
                "round_id": sample.truth["round"],
                "ranks": [ranks[option] for option in range(len(scores))],
            }
        )
    return submission
