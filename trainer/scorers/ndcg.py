"""How well the options of a visual dialogue are ranked (VisDial 1.0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """The scores of one dialogue."""

    ndcg: float | None
    """0 to 1; None where no option is relevant, which leaves a dialogue out of the mean."""

    rank: int | None
    """Of the option that the person in the dialogue gave, from 1; None if that is not known."""


def rank_options(scores: Sequence[float], relevance: Sequence[float], true_option: int | None = None) -> Ranking:
    """Rank options by how likely the model finds them, and compare with how relevant people found them.

    Args:
        scores: [options] higher is likelier; equal ones are ranked by their number.
        relevance: [options] 0 to 1.
        true_option: the index of the answer given.

    Raises:
        ValueError: a score is not a number, or there is not one relevance for each score.
    """
    if len(scores) != len(relevance):
        raise ValueError(f"There are {len(scores)} scores for {len(relevance)} relevances; expected one each.")
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        # the official program ranks it first
        raise ValueError(f"scores[{int(np.isnan(values).argmax())}] is not a number; every option needs a score.")
    order = np.argsort(-values, kind="stable")
    relevant = np.asarray(relevance, dtype=np.float64)
    counted = int(np.count_nonzero(relevant))
    rank = None if true_option is None else int(np.flatnonzero(order == true_option)[0]) + 1
    if counted == 0:
        return Ranking(None, rank)
    discounts = np.log2(np.arange(counted) + 2)
    reached = float((relevant[order[:counted]] / discounts).sum())
    possible = float((np.sort(relevant)[::-1][:counted] / discounts).sum())
    return Ranking(reached / possible, rank)
