"""What ends a run early, as a request to stop between two steps instead of a death in the middle of one."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType, TracebackType

STOP_FILE = "STOP"
"""A file of this name in the run directory stops the run, which takes it away. A directory is no such file."""

EXIT_STOPPED = 3
"""Exit code of a run that was told to stop and did, after a complete checkpoint; see `Stop.exit_code`."""


class Stop(IntEnum):
    """Why a run stops early. Where processes have several reasons, the largest counts."""

    DEADLINE = 1
    STOP_FILE = 2
    CLOSED_OUTPUT = 3
    """Nobody reads standard output any more: `| head` has ended, or the terminal is gone."""

    SIGUSR1 = 4
    SIGHUP = 5
    SIGTERM = 6
    SIGINT = 7

    @property
    def exit_code(self) -> int:
        """0 for a pause by the clock; 3 where somebody asked for it; 130, as shells have it, for Ctrl-C.

        `torchrun --max-restarts` takes any code but 0 for a failure, and would begin again what somebody has ended: 0
        there, but for signals that end a node's `torchrun` too, after which the other nodes have to begin again.
        """
        if self is Stop.SIGINT:
            return 128 + signal.SIGINT
        ends_a_node = self in (Stop.SIGTERM, Stop.SIGHUP)
        return 0 if self is Stop.DEADLINE or (_begins_again() and not ends_a_node) else EXIT_STOPPED


def _begins_again() -> bool:
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


class Interrupted(Exception):
    """A reason to stop came before there was anything to save."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(f"{stop.name}: stopped before the run began; nothing was written.")
        self.stop = stop


SIGNALS = {
    signal.SIGINT: Stop.SIGINT,
    signal.SIGTERM: Stop.SIGTERM,
    signal.SIGUSR1: Stop.SIGUSR1,
    signal.SIGHUP: Stop.SIGHUP,
}


class Interrupt:
    """While entered, remembers the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP; a second one acts as if nobody listened.
    SIGHUP stays ignored where it was (`nohup`).

    Works in the main thread only, as Python's signal handlers do.

    Args:
        directory: where a STOP file is looked for; None: nowhere.
        deadline: when to stop, of `time.monotonic`.
        echoes: a second signal does nothing. For processes of `torchrun`, which sends them what a terminal or a batch
            system has sent to all already, and kills after 30 seconds.
    """

    def __init__(self, directory: Path | None = None, deadline: float = math.inf, *, echoes: bool = False) -> None:
        self.received: Stop | None = None
        self._echoes = echoes
        self._file = None if directory is None else directory / STOP_FILE
        self._deadline = deadline
        self._previous: dict[signal.Signals, object] = {}

    @property
    def reason(self) -> Stop | None:
        """Why to stop now; None: go on."""
        if self.received is not None:
            return self.received
        if self._file is not None and self._file.exists() and not self._file.is_dir():
            return Stop.STOP_FILE
        return Stop.DEADLINE if time.monotonic() >= self._deadline else None

    def check(self) -> None:
        """Raise Interrupted if there is a reason to stop now."""
        if (reason := self.reason) is not None:
            raise Interrupted(reason)

    @contextmanager
    def sigterm_ends(self) -> Iterator[None]:
        """Inside, SIGTERM ends this process at once. For calls that may wait for processes that are dead, during which
        Python calls no handlers, and before there is anything to save: `torchrun` would wait 30 seconds, and kill.

        Raises:
            Interrupted: there is a reason to stop already.
        """
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            self.check()
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)

    def output_closed(self) -> None:
        """Nobody reads what the run prints: a reason to stop, as it is for any program."""
        if self.received is None:
            self.received = Stop.CLOSED_OUTPUT

    def obeyed(self) -> None:
        """Take a STOP file away, so that the resumed run does not stop at once."""
        if self._file is not None and not self._file.is_dir():
            self._file.unlink(missing_ok=True)

    def __enter__(self) -> Interrupt:
        is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in SIGNALS if number is not signal.SIGHUP or not is_nohup]
        self._previous = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = SIGNALS[signal.Signals(number)]
        if not self._echoes:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def ignore_in_worker(worker_id: int) -> None:
    """For a data worker: the main process decides when to stop, though a terminal signals the whole group.

    A second SIGTERM acts, for that is how a main process that broke down ends its workers.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
