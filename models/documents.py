"""Where the documents of packed rows are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows begin and end, all rows one after the other."""

    ends: Tensor
    """[n + 1] int32, first of document i and one past its last: `ends[i]`, `ends[i + 1]`. Padding is a document too."""

    longest: int
    """Tokens of the longest."""
