"""Where the documents of packed rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows begin and end, all rows one after the other."""

    ends: Tensor
    """[n + 1] int32, first of document i and one past its last: `ends[i]`, `ends[i + 1]`. Padding is a document too."""

    longest: int
    """Tokens of the longest."""

    lengths: tuple[int, ...]
    """Tokens of each, on the host."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Documents:
        """From the tokens of each, padding included."""
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(ends.to(device), max(lengths), tuple(lengths))
