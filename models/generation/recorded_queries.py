"""Recorded queries of MMFS: of a written token, or of the pixels of an image at one step of its drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments
from models.sampling_recorder import of_queries


@dataclass(frozen=True, eq=False)
class RecordedQueries:
    """What one document's queries asked of the op, by layer."""

    arguments: Sequence[MMFSAttentionArguments]
    """Of each layer, for the rows of a batch, without `value`; see `models.sampling_recorder`."""

    row: int
    """Of this document."""

    def alone(self) -> RecordedQueries:
        """The same without the batch's other rows, in memory of its own: [1, queries, ...]."""

        def own(tensor: Tensor) -> Tensor:
            return tensor[self.row : self.row + 1].clone()

        return RecordedQueries([of_queries(one, own) for one in self.arguments], 0)
