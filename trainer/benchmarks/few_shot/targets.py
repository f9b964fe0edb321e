"""What a training sample shows as its answer."""

from __future__ import annotations

from collections import Counter

from trainer.benchmarks.sample import Sample
from trainer.scorers.answers import one_line


def first_reference(sample: Sample) -> str:
    """The first of the captions."""
    return one_line(sample.truth["references"][0])


def usual_answer(sample: Sample) -> str:
    """The answer that most people gave, the first of several; or the only one."""
    answers = sample.truth["answers"] if "answers" in sample.truth else [sample.truth["answer"]]
    [(answer, _)] = Counter(map(one_line, answers)).most_common(1)
    return answer
