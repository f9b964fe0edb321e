"""Ctrl-C and SIGTERM as a request to stop between two steps, instead of a death in the middle of one."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, remembers the first SIGINT or SIGTERM; a second one acts as if nobody listened.

    Works in the main thread only, as Python's signal handlers do.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that this signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        if self.received is None:
            raise ValueError("No signal was received, so there is no exit code for one; look at `received` first.")
        return 128 + self.received

    def __enter__(self) -> Interrupt:
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def ignore_in_worker(worker_id: int) -> None:
    """For a data worker: the main process decides when to stop, though a terminal signals the whole group."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
