"""Images that were drawn, kept for a while, by the SHA-256 of their PNG files."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from export.serve.content.encoded import EncodedImage


class ImageStore:
    """The images of the last `seconds`, the newest of them where `max_bytes` are not enough for all. Any thread may use
    it.

    Args:
        seconds: how long an image is kept after it was last put or got.
        max_bytes: of PNG files.
        clock: seconds that only go forward.
    """

    def __init__(self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._num_bytes = 0

    def put(self, image: EncodedImage) -> None:
        """Keep an image."""
        digest = image.digest
        with self._lock:
            self._remove(digest)
            self._kept[digest] = image.png, self._clock()
            self._num_bytes += len(image.png)
            self._forget()

    def get(self, digest: str) -> bytes | None:
        """The PNG file; None if it is not kept."""
        with self._lock:
            self._forget()
            found = self._kept.get(digest)
            if found is None:
                return None
            self._kept[digest] = found[0], self._clock()
            self._kept.move_to_end(digest)
            return found[0]

    def _forget(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept:
            digest, (_, used) = next(iter(self._kept.items()))
            if used >= oldest and self._num_bytes <= self.max_bytes:
                return
            self._remove(digest)

    def _remove(self, digest: str) -> None:
        if (found := self._kept.pop(digest, None)) is not None:
            self._num_bytes -= len(found[0])
