"""What is kept for a while in memory: images that were drawn, and responses that a client may go on from."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values of the last `seconds`, the newest of them where `max_bytes` are not enough for all. Any thread may use
    it.

    Args:
        seconds: how long a value is kept after it was last put or got.
        max_bytes: of all values.
        clock: seconds that only go forward.
    """

    def __init__(self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Value, int, float]] = OrderedDict()
        self._num_bytes = 0

    def put(self, key: str, value: Value, num_bytes: int) -> None:
        """Keep a value that takes so much memory."""
        with self._lock:
            self._remove(key)
            self._kept[key] = value, num_bytes, self._clock()
            self._num_bytes += num_bytes
            self._forget()

    def get(self, key: str) -> Value | None:
        """The value; None if it is not kept."""
        with self._lock:
            self._forget()
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept[key] = found[0], found[1], self._clock()
            self._kept.move_to_end(key)
            return found[0]

    def remove(self, key: str) -> None:
        """Forget a value."""
        with self._lock:
            self._remove(key)

    def _forget(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept:
            key, (_, _, used) = next(iter(self._kept.items()))
            if used >= oldest and self._num_bytes <= self.max_bytes:
                return
            self._remove(key)

    def _remove(self, key: str) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self._num_bytes -= found[1]
