"""Beam search: the likeliest text instead of the likeliest next token.

Letters: n beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.generation.generated import FinishReason
from models.generation.options import GenerationOptions
from models.generation.recorded_queries import RecordedQueries
from models.generation.state import GenerationState
from models.generation.token_sampler import TokenSampler
from models.processor import MMInterleavedProcessor


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search found."""

    ids: list[int]
    """Without the end token."""

    log_probability: float
    finish_reason: FinishReason
    queries: list[RecordedQueries | None]
    """For each token, the queries that it was chosen by, if they are recorded."""


@dataclass
class _Search:
    """The search behind one document."""

    beams: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])  # log-probability, tokens
    queries: list[list[RecordedQueries | None]] = field(default_factory=lambda: [[]])  # of each beam's tokens
    found: list[tuple[float, Hypothesis]] = field(default_factory=list)  # score; at most n, best first


def beam_search(
    state: GenerationState,
    options: GenerationOptions,
    samplers: Sequence[TokenSampler],
    processor: MMInterleavedProcessor,
) -> Generator[None, None, list[Hypothesis]]:
    """Search for the likeliest text after what each document has read; text only.

    As in transformers, the score of a text is its log-probability over its length to the power of `length_penalty`,
    and a search ends when no beam's present score is above those of the n best texts found.

    Args:
        state: one row for each document; not usable afterwards.
        options: `num_beams`, `length_penalty`, `max_new_tokens` (at least 1), `stop` and `overflow`.
        samplers: of each document.
        processor: of the model.

    Yields:
        Nothing, after each token, so that the caller may stop there.

    Returns:
        The best text of each document.
    """
    searches = [_Search() for _ in state.documents]
    for num_tokens in range(1, options.max_new_tokens + 1):
        assert state.logits is not None, "a document starts with <s>"
        all_logits = state.logits.cpu()
        going = list(dict.fromkeys(state.documents))
        rows, tokens = [], []
        for document in going:
            search = searches[document]
            first = state.documents.index(document)
            is_full = options.overflow == "cut" and state.excess(first, 1) > 0
            last: FinishReason | None = (
                "max_new_tokens" if num_tokens == options.max_new_tokens else "length" if is_full else None
            )
            logits = all_logits[first : first + len(search.beams)]
            asked = state.queries[first : first + len(search.beams)]
            search.queries = [[*before, own] for before, own in zip(search.queries, asked, strict=True)]
            for parent, ids in _extend(
                search, logits, state.config.eos_token_id, options, samplers[document], last, processor
            ):
                rows.append(first + parent)
                tokens.append([ids[-1:]])
        if not rows:
            break
        state.select(rows)
        state.read(tokens)
        yield
    return [search.found[0][1] for search in searches]


def _extend(
    search: _Search,
    logits: Tensor,
    eos: int,
    options: GenerationOptions,
    sampler: TokenSampler,
    last: FinishReason | None,
    processor: MMInterleavedProcessor,
) -> list[tuple[int, list[int]]]:
    """Take one step: the beams that go on, as (number of the beam that each extends, tokens); none when it is over.

    `last`: why the texts end here, if this is the last step.
    """
    num_beams, scores = options.num_beams, []
    for (total, ids), row in zip(search.beams, logits.log_softmax(-1), strict=True):
        scores.append(total + sampler.scores(row, ids, may_draw=False))
    totals = torch.stack(scores)  # [n, V]
    best = totals.flatten().topk(min(2 * num_beams, totals.numel()))  # so that n are left even if half of them are ends
    going: list[tuple[int, list[int]]] = []
    beams: list[tuple[float, list[int]]] = []
    queries: list[list[RecordedQueries | None]] = []
    for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        parent, token = divmod(place, totals.shape[1])
        ids = [*search.beams[parent][1], token]
        text_ids = ids[:-1] if token == eos else ids
        finish_reason: FinishReason | None = "end" if token == eos else last
        if token != eos and options.stops and any(stop in processor.decode_text(ids) for stop in options.stops):
            finish_reason = "stop"
        if finish_reason is None and len(beams) < num_beams:
            going.append((parent, ids))
            beams.append((total, ids))
            queries.append(search.queries[parent])
        elif finish_reason is not None and rank < num_beams:
            worth = total / len(ids) ** options.length_penalty
            asked = search.queries[parent][: len(text_ids)]
            search.found.append((worth, Hypothesis(text_ids, total, finish_reason, asked)))
    search.found = sorted(search.found, key=lambda one: one[0], reverse=True)[:num_beams]
    search.beams, search.queries = beams, queries
    if last is not None or not beams:
        return []
    hopeful = beams[0][0] / len(beams[0][1]) ** options.length_penalty
    is_over = len(search.found) == num_beams and search.found[-1][0] >= hopeful
    return [] if is_over else going
