"""One document that is read on from where it is: what a state has read of it, and how it gets to another text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.generation.state import GenerationState, GenerativeModel, Piece

Unit = int | Tensor
"""A token, or an image."""


class ReadDocument:
    """A generation state of one document, and the tokens and images that it has read.

    Args:
        state: with one row.
        units: what that has read.
    """

    def __init__(self, state: GenerationState, units: Iterable[Unit] = ()) -> None:
        self.state = state
        self.units = list(units)
        self.knows_next = bool(self.units)
        """The state's logits are those behind the last unit."""

    @classmethod
    def begin(cls, model: GenerativeModel) -> ReadDocument:
        """One that has read nothing."""
        return cls(model.begin_generation(1))

    def go_to(self, pieces: Sequence[Piece], *, needs_queries: bool = False) -> list[Piece]:
        """Forget what does not belong to a document that begins with `<s>`.

        Args:
            pieces: all of the document.
            needs_queries: the queries behind its last token are needed beside the logits.

        Returns:
            What has to be read of it still. Where that is nothing, the state's logits are those behind its end.
        """
        units = units_of(pieces)
        num = num_equal(units, self.units)
        if num == len(units) and not (
            num == len(self.units) and self.knows_next and (self.state.queries[0] is not None or not needs_queries)
        ):
            num -= 1
        self._crop(num)
        return pieces_of_units(units[num:])

    def note(self, pieces: Sequence[Piece]) -> None:
        """The state has read these."""
        self.units += units_of(pieces)
        self.knows_next = self.knows_next or bool(pieces)

    def recover(self) -> None:
        """Forget what was being read when an error came: it may have been read by half."""
        self._crop(len(self.units), always=True)

    def _crop(self, num: int, *, always: bool = False) -> None:
        if num < len(self.units) or always:
            kept = pieces_of_units(self.units[:num])
            self.state.crop(0, self.state.num_tokens(kept), sum(isinstance(piece, Tensor) for piece in kept))
            self.units, self.knows_next = self.units[:num], False

    def copied(self, model: GenerativeModel) -> ReadDocument:
        """An independent copy."""
        if not self.units:
            return ReadDocument.begin(model)
        other = ReadDocument(self.state.copied([0]), self.units)
        other.knows_next = self.knows_next
        return other

    @property
    def num_tokens(self) -> int:
        """Places of the language model that have been read."""
        return self.state.lengths[0]


def units_of(pieces: Sequence[Piece]) -> list[Unit]:
    """Pieces as single tokens and images."""
    return [unit for piece in pieces for unit in ([piece] if isinstance(piece, Tensor) else piece)]


def pieces_of_units(units: Sequence[Unit]) -> list[Piece]:
    """Single tokens and images as pieces; adjacent tokens are one."""
    pieces: list[Piece] = []
    for unit in units:
        if isinstance(unit, Tensor):
            pieces.append(unit)
        elif pieces and isinstance(pieces[-1], list):
            pieces[-1].append(unit)
        else:
            pieces.append([unit])
    return pieces


def num_equal(one: Sequence[Unit], other: Sequence[Unit]) -> int:
    """How many units two documents have in common at their beginning."""
    for number, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if not _is_equal(ours, theirs):
            return number
    return min(len(one), len(other))


def _is_equal(one: Unit, other: Unit) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other
