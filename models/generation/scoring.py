"""How likely each of some answers is (paper, visual dialogue: the right one of 100 is to be ranked first)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from models.generation.documents import Document, batch_of, pieces_of, text_ids, whole_document
from models.generation.prompts import prompt_for
from models.generation.state import GenerationState, GenerativeModel, Piece, processor_of
from models.generation.stream import GenerationStream
from models.torch_defaults import usual_torch_defaults

CANDIDATES_AT_A_TIME = 32
"""Candidates at a time. More are faster, but each needs a copy of the document's keys and values."""


@dataclass(frozen=True)
class Score:
    """How likely one answer is."""

    candidate: str
    log_probability: float
    """Of its tokens, given the document: natural logarithm, summed."""

    num_tokens: int
    rank: int
    """1: the likeliest."""


def score(
    model: GenerativeModel,
    document: Document,
    candidates: Sequence[str],
    *,
    task: str | None = None,
    rank_by: Literal["sum", "mean"] = "sum",
) -> list[Score]:
    """Rank texts as continuations of a document, which is read once for all of them.

    Args:
        model: with a processor.
        document: text and images in reading order.
        candidates: the texts.
        task: a ready prompt to put the document into, as for `generate`.
        rank_by: "sum": by log-probability (the release). "mean": by that of an average token, so that long texts
            are not ranked lower.

    Returns:
        A score for each candidate, in their order.

    Raises:
        ValueError: a candidate has no token, or document and candidate are longer than the language model reads.
    """
    stream = score_stream(
        model, document, candidates, task=task, rank_by=rank_by, candidates_at_a_time=CANDIDATES_AT_A_TIME
    )
    return next(stream)


@torch.no_grad()
@usual_torch_defaults()
def score_stream(
    model: GenerativeModel,
    document: Document,
    candidates: Sequence[str],
    *,
    task: str | None = None,
    rank_by: Literal["sum", "mean"] = "sum",
    candidates_at_a_time: int = CANDIDATES_AT_A_TIME,
) -> GenerationStream[list[Score]]:
    """The same step by step, for a caller that has other work between two steps, or may give up.

    Args:
        model: as for `score`, like the arguments that are not named here.
        document: text and images.
        candidates: the texts.
        task: a ready prompt.
        rank_by: "sum" or "mean".
        candidates_at_a_time: that are read in one step.

    Returns:
        An iterator over one item, the scores. `GenerationStream.step` reads the document, and then some candidates.

    Raises:
        ValueError: as for `score`, at once where the arguments tell.
    """
    if rank_by not in ("sum", "mean"):
        raise ValueError(f"rank_by is {rank_by!r}; expected 'sum' or 'mean'.")
    batch, batched = batch_of(document)
    if batched or isinstance(candidates, str):
        raise ValueError("score takes one document and a list of texts; call it once for each document.")
    segments = batch[0] if task is None else prompt_for(task).fill(batch[0])
    processor = processor_of(model)
    for number, candidate in enumerate(candidates):
        if not isinstance(candidate, str):
            raise ValueError(f"candidates[{number}] is a {type(candidate).__name__}; expected a text.")
    answers = [text_ids(candidate, processor, model.config) for candidate in candidates]
    if [] in answers:
        raise ValueError(f"candidates[{answers.index([])}] is {candidates[answers.index([])]!r}, which has no token.")
    pieces = whole_document([pieces_of(segment, processor, model.config) for segment in segments], model.config)
    prefix = model.begin_generation(1)
    return GenerationStream(_steps(prefix, pieces, candidates, answers, rank_by, candidates_at_a_time))


def _steps(
    prefix: GenerationState,
    pieces: list[Piece],
    candidates: Sequence[str],
    answers: Sequence[list[int]],
    rank_by: Literal["sum", "mean"],
    at_a_time: int,
) -> Generator[list[Score] | None, None, None]:
    """The work of `score_stream`.

    Args:
        prefix: an empty state.
        pieces: of the document.
        candidates: the texts.
        answers: their token ids.
        rank_by: "sum" or "mean".
        at_a_time: candidates of a step.
    """
    prefix.read([pieces])
    yield None
    sums: list[float] = []
    for start in range(0, len(answers), at_a_time):
        sums += prefix.log_probabilities(answers[start : start + at_a_time])
        yield None
    worth = [total if rank_by == "sum" else total / len(ids) for total, ids in zip(sums, answers, strict=True)]
    order = sorted(range(len(worth)), key=worth.__getitem__, reverse=True)
    yield [
        Score(candidate, total, len(ids), 1 + order.index(i))
        for i, (candidate, total, ids) in enumerate(zip(candidates, sums, answers, strict=True))
    ]
