"""Documents that have been read and wait for their next turn, found by what they consist of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from export.serve.engine.content import Item, common_length, num_images, whole_images
from models.generation.state import GenerationState

LEAST_PREFIX = 8
"""Tokens. A shorter prefix is read again sooner than it is copied."""


@dataclass(eq=False)
class _Entry:
    scope: str
    items: list[Item]
    state: GenerationState
    num_bytes: int


class ContentCache:
    """States of one document each. The one that was used longest ago is dropped for a new one that finds no room.

    Args:
        max_bytes: of all of them together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, scope: str, items: Sequence[Item], state: GenerationState) -> None:
        """Keep a state of one row, which has read these items, for requests of this scope. It takes the place of those
        that it continues."""
        size = state.num_bytes
        if not items or size > self.max_bytes:
            return
        for key, entry in list(self._entries.items()):
            if entry.scope == scope and common_length(entry.items, items) == len(entry.items):
                self._drop(key)
        while self.num_bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[self._next] = _Entry(scope, list(items), state, size)
        self._next += 1
        self.num_bytes += size

    def take(self, scope: str, items: Sequence[Item]) -> tuple[GenerationState, int] | None:
        """A state that has read the longest known beginning of these items, and how many they are.

        If the document was only continued, the state leaves the cache; otherwise it is a copy without the rest, and
        the other continuation stays. Its logits are there only if it has read all items and nothing else; otherwise at
        least the last item is left to be read.
        """
        lengths = {
            key: common_length(items, entry.items) for key, entry in self._entries.items() if entry.scope == scope
        }
        if not lengths:
            return None
        key = max(lengths, key=lambda one: (lengths[one], one))
        entry, length = self._entries[key], lengths[key]
        if length == len(items) and len(entry.items) > length:
            length = whole_images(items, length - 1)
        if length < LEAST_PREFIX:
            return None
        if length == len(entry.items):
            self._drop(key)
            return entry.state, length
        self._entries.move_to_end(key)
        state = entry.state.copied([0])
        state.crop(0, length, num_images(items[:length]))
        return state, length

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.num_bytes = 0

    def _drop(self, key: int) -> None:
        self.num_bytes -= self._entries.pop(key).num_bytes
