"""What a language model keeps of the tokens that documents have read: documents of different lengths side by side.

Letters: B documents, T new tokens, K columns, H heads, D channels a head, C language-model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

LEAST_ROOM = 32
"""Columns that are added at least when there are too few, so that a row is not copied for every token."""


class TokenRows:
    """One number of each token, or several: [B, ..., K, D]. The tokens of a row begin at column 0; columns after them
    hold what has no meaning, but is finite."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        """[B, ..., K, D] with columns for tokens to come."""

    def write(self, new: Tensor, places: Places) -> Tensor:
        """Put new tokens [B, ..., T, D] into their places.

        Returns:
            Everything up to the last of these places, [B, ..., K, D].
        """
        kept, end = self.kept, places.end
        if kept is None:
            kept = _reserved(new[..., :0, :], end + LEAST_ROOM)
        elif kept.shape[-2] < end:
            kept = _reserved(kept, end + max(LEAST_ROOM, end // 4))
        if places.common is not None:
            kept[..., places.common : end, :] = new
        else:
            # Indices of rows and columns come first in what is written to: [B, T, ..., D].
            kept.movedim(-2, 1)[places.rows, places.columns] = new.movedim(-2, 1)
        self.kept = kept
        return kept[..., :end, :]

    def of(self, row: int, length: int) -> Tensor:
        """[..., length, D], the tokens of one row."""
        assert self.kept is not None, "a row with tokens has been written"
        return self.kept[row, ..., :length, :]

    def select(self, rows: Tensor, length: int, room: int = 0) -> TokenRows:
        """A copy of these rows [B'] int64, as long as the longest of them, with room for as many more tokens."""
        other = TokenRows()
        if self.kept is not None and len(rows):
            other.kept = _reserved(self.kept[..., :length, :].index_select(0, rows), length + room)
        return other

    @classmethod
    def joined(cls, parts: Sequence[TokenRows], length: int) -> TokenRows:
        """The rows of all parts one after another; `length` is that of the longest of them."""
        joined, kept = cls(), [part.kept for part in parts if part.kept is not None]
        if kept:
            shape = sum(map(len, kept)), *kept[0].shape[1:-2], 0, kept[0].shape[-1]
            joined.kept = _reserved(kept[0].new_empty(shape), length + LEAST_ROOM)
            first = 0
            for one in kept:
                filled = min(length, one.shape[-2])
                joined.kept[first : first + len(one), ..., :filled, :] = one[..., :filled, :]
                first += len(one)
        return joined

    @property
    def num_bytes(self) -> int:
        """Of the memory that is reserved."""
        return 0 if self.kept is None else self.kept.nbytes


class Places:
    """Where each row's new tokens go: behind the tokens that it has.

    Args:
        lengths: how many those are, of each of the B rows.
        num_new: T, padding included, which is overwritten by what the row reads next.
        device: of the columns.
    """

    def __init__(self, lengths: Sequence[int], num_new: int, device: torch.device) -> None:
        self.end = max(lengths) + num_new
        self.common = lengths[0] if min(lengths) == max(lengths) else None
        """The first column, if it is the same in all rows."""

        self.rows = torch.arange(len(lengths), device=device).unsqueeze(1)
        self.columns = torch.tensor(lengths, device=device).unsqueeze(1) + torch.arange(num_new, device=device)
        """[B, T] int64; a token's column is its position in the document."""

    @property
    def mask(self) -> Tensor:
        """[B, 1, T, K] bool: every token attends to itself and to those before it."""
        return (torch.arange(self.end, device=self.columns.device) <= self.columns.unsqueeze(-1)).unsqueeze(1)


class TokenCache(Cache):
    """Keys and values of every layer in the form that transformers writes to, and the states after the last one.

    A call of the language model writes where `begin` said.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.hidden = TokenRows()
        """[B, K, C]"""

        self._keys: list[TokenRows] = []  # [B, H, K, D], of each layer
        self._values: list[TokenRows] = []
        self._places: Places | None = None

    def begin(self, lengths: Sequence[int], num_new: int, device: torch.device) -> Places:
        """Where the next T tokens of each row go; see `Places`."""
        self._places = Places(lengths, num_new, device)
        return self._places

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values [B, H, T, D] of a layer's new tokens; all that are kept now, [B, H, K, D]."""
        assert self._places is not None, "begin() comes first"
        for kept in (self._keys, self._values):
            kept.extend(TokenRows() for _ in range(layer_idx + 1 - len(kept)))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        return keys.write(key_states, self._places), values.write(value_states, self._places)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those that are being written."""
        return 0 if self._places is None else self._places.end - self._places.columns.shape[1]

    def select(self, rows: Tensor, length: int, room: int = 0) -> TokenCache:
        """A copy of these rows [B'] int64, as long as the longest of them, with room for as many more tokens."""
        other = TokenCache()
        other.hidden = self.hidden.select(rows, length, room)
        other._keys = [kept.select(rows, length, room) for kept in self._keys]
        other._values = [kept.select(rows, length, room) for kept in self._values]
        return other

    def without_unused(self, length: int) -> TokenCache:
        """The same with less memory, if the longest row has so few tokens that most of it is unused."""
        kept = self.hidden.kept
        if kept is None or kept.shape[-2] <= 2 * (length + LEAST_ROOM):
            return self
        return self.select(torch.arange(len(kept), device=kept.device), length, LEAST_ROOM)

    @classmethod
    def joined(cls, parts: Sequence[TokenCache], length: int) -> TokenCache:
        """The rows of all parts one after another; `length` is that of the longest of them."""
        joined, parts = cls(), [part for part in parts if part._keys]
        joined.hidden = TokenRows.joined([part.hidden for part in parts], length)
        for own, kept in (
            (joined._keys, [part._keys for part in parts]),
            (joined._values, [part._values for part in parts]),
        ):
            own.extend(TokenRows.joined(layer, length) for layer in zip(*kept, strict=True))
        return joined

    @property
    def num_bytes(self) -> int:
        """Of the memory that is reserved."""
        return sum(rows.num_bytes for rows in (self.hidden, *self._keys, *self._values))


@torch.inference_mode(False)  # what is written to is a usual tensor, also where the next call is made in another mode
@torch.no_grad()
def _reserved(kept: Tensor, num_columns: int) -> Tensor:
    """A copy of [B, ..., K, D] with another K."""
    length = min(kept.shape[-2], num_columns)
    reserved = kept.new_zeros(*kept.shape[:-2], num_columns, kept.shape[-1])
    reserved[..., :length, :] = kept[..., :length, :]
    return reserved
