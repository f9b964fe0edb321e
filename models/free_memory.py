"""Memory that was let go of, given back to the system while large tensors come and go."""

from __future__ import annotations

import ctypes

TRIM_BYTES = 2**22


class FreeMemory:
    """The GNU C library keeps what is freed in the middle of its heap until it is asked; this asks after every
    `TRIM_BYTES` that were let go of."""

    def __init__(self) -> None:
        self._num_bytes = 0

    def let_go(self, num_bytes: int) -> None:
        """So many more are free now."""
        self._num_bytes += num_bytes
        if self._num_bytes >= TRIM_BYTES:
            self.give_back()

    def give_back(self) -> None:
        """Ask now."""
        self._num_bytes = 0
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
