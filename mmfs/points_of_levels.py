"""Samples of ms_deform_attn whose number differs by level, as the op takes them: padded to the largest.

RT-DETRv2 and D-FINE list the samples of a head level after level, [3, 6, 3] of them for example. What is added lies
outside of every level with a weight of zero: no implementation reads a pixel for it.

Letters: B batch, Q queries, H heads, L levels, P points, K samples of a head, of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE: Final = -8.0
"""A location that touches no pixel of any level."""


def with_equal_points(
    sampling_locations: Tensor, attention_weights: Tensor, num_points: Sequence[int], num_levels: int
) -> tuple[Tensor, Tensor]:
    """Locations [B, Q, H, K, 2] and weights [B, Q, H, K] -> [B, Q, H, L, P, 2] and [B, Q, H, L, P].

    Args:
        sampling_locations, attention_weights: level after level; they have to be tensors.
        num_points: of each level.
        num_levels: L.

    Raises:
        ValueError, TypeError: num_points is not an int for each level, or K is not their sum.
    """
    counts = list(num_points) if isinstance(num_points, Sequence) and not isinstance(num_points, str) else None
    if counts is None or not all(isinstance(count, int) for count in counts):
        raise TypeError(f"num_points is {num_points!r}. Expected a sequence of ints, one for each level.")
    if len(counts) != num_levels or min(counts, default=0) < 0:
        raise ValueError(
            f"num_points is {counts}. Expected a number of at least 0 for each of the {num_levels} levels in "
            "spatial_shapes."
        )
    total = sum(counts)
    for name, tensor, letters, given in (
        ("sampling_locations", sampling_locations, "[B, Q, H, K, 2]", sampling_locations.shape[3:]),
        ("attention_weights", attention_weights, "[B, Q, H, K]", attention_weights.shape[3:]),
    ):
        if tensor.ndim != letters.count(",") + 1 or given[0] != total:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}. Expected {letters} with K = {total}, the sum of num_points "
                f"{counts}."
            )
    most = max(counts)
    if min(counts) == most:
        return sampling_locations.unflatten(3, (num_levels, most)), attention_weights.unflatten(3, (num_levels, most))
    padding = [most - count for count in counts]
    locations = [
        F.pad(part, (0, 0, 0, missing), value=OUTSIDE)
        for part, missing in zip(sampling_locations.split(counts, dim=3), padding, strict=True)
    ]
    weights = [
        F.pad(part, (0, missing)) for part, missing in zip(attention_weights.split(counts, dim=3), padding, strict=True)
    ]
    return torch.stack(locations, dim=3), torch.stack(weights, dim=3)
