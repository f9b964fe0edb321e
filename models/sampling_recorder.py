"""What the synchronizers of a network ask of the op in one call: from this, `mmfs.sampled.sampled` tells where they
sample.

The arguments are kept as they are: they are exact, smaller than the locations and weights of two images, and keeping
them costs next to nothing. The images themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments


def of_queries(arguments: MMFSAttentionArguments, select: Callable[[Tensor], Tensor]) -> MMFSAttentionArguments:
    """The same arguments for some queries alone.

    Args:
        arguments: of B rows with Q queries.
        select: takes a tensor [B, Q, ...] and returns what is to be kept of it, [rows, queries, ...].
    """
    points, offsets = arguments.reference_points, arguments.sampling_offsets
    return arguments._replace(
        # Of another shape, they are the same for all rows.
        reference_points=select(points) if points.shape[:-1] == offsets.shape[:2] else points,
        sampling_offsets=select(offsets),
        attention_logits=select(arguments.attention_logits),
        visible=select(arguments.ranges),
    )


class SamplingRecorder:
    """An argument of a network's call, filled by it. One thread may use it at a time."""

    def __init__(self) -> None:
        self._select: Callable[[Tensor], Tensor] | None = None
        self._recorded: dict[int, MMFSAttentionArguments] = {}
        self._tables: dict[int, tuple[Tensor | None, Tensor | None]] = {}

    def begin(self, select: Callable[[Tensor], Tensor] | None = None) -> SamplingRecorder:
        """Before a call.

        Args:
            select: which queries are recorded, as for `of_queries`; None: all.
        """
        self._select = select
        self._recorded = {}
        return self

    def of(self, index: int) -> Callable[[MMFSAttentionArguments], None]:
        """What the synchronizer with this number calls; see `MMFS.forward`."""
        return partial(self._record, index)

    def _record(self, index: int, arguments: MMFSAttentionArguments) -> None:
        # A layer that is not folded makes its tables anew in each call; they differ only if its weights do.
        tables = self._tables.setdefault(index, (arguments.offset_table, arguments.logit_table))
        kept = arguments if self._select is None else of_queries(arguments, self._select)
        self._recorded[index] = MMFSAttentionArguments(
            torch.empty(0),
            (),
            kept.reference_points,
            kept.sampling_offsets,
            kept.attention_logits,
            kept.ranges,
            *tables,
            kept.null_logit,
        )

    def take(self) -> tuple[MMFSAttentionArguments, ...]:
        """What the call asked of the op, by the synchronizers' numbers; `value`, sizes and `null_value` are empty."""
        recorded, self._recorded = self._recorded, {}
        return tuple(recorded[index] for index in sorted(recorded))
