"""Names the process that keeps the others waiting, and ends a run in which nothing happens any more."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import torch.distributed as dist

from trainer.process.rendezvous import ranks_in_words

EXIT_STUCK = 4
"""Exit code of a process whose run hung, or whose peers did not come or have begun again."""

LOOKS_EVERY_S = 5.0
LEAVES_FOR_S = 20.0
"""So long at most a process goes on for what it leaves behind."""


class Watchdog:
    """While entered, a thread tells the other processes how far this one is, and speaks up when nothing moves.

    A process that waits for another one cannot be called back, so the thread ends it: `torchrun` then starts all of
    them again, and the run goes on from its last checkpoint.

    Args:
        rank: of this process.
        num: of all processes; with one there is nobody to wait for, and nothing is watched.
        store: of this attempt, for this thread alone.
        limit_s: so long no process may get any further, once `enters` has been called.
        began_again: the ranks of processes of this attempt that are dead, because others of the same rank have come;
            they would wait for this one in vain.
        leave: called before the process ends, to leave behind what it was doing.
        clock: in seconds.
    """

    def __init__(
        self,
        rank: int,
        num: int,
        store: dist.Store,
        limit_s: float,
        *,
        began_again: Callable[[], list[int]] = list,
        leave: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rank
        self._num = num
        self._store = store
        self._limit_s = limit_s
        self._began_again = began_again
        self._leave = leave
        self._clock = clock
        self._progress = (0, "the start")
        self._num_moves = 0
        self._num_told = 0
        self._num_moves_of_all = 0
        self._is_waiting_allowed = True
        self._since = clock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def enters(self, stage: str) -> None:
        """This process gets to a stage of a run, which all processes pass in the same order."""
        self._progress = (self._progress[0] + 1, stage)
        self._is_waiting_allowed = False
        self.heartbeat()

    def heartbeat(self) -> None:
        """This process gets further within its stage; the others may wait for it longer."""
        self._since = self._clock()
        self._num_moves += 1

    def allows_waiting(self, stage: str) -> None:
        """This process gets to a stage that has no limit, such as writing a large model at the end."""
        self.enters(stage)
        self._is_waiting_allowed = True

    def __enter__(self) -> Watchdog:
        if self._num > 1:
            self.look()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> str:
        """Tell the others how far this process is; returns why it has to end, or nothing."""
        try:
            moved, self._num_told = self._num_moves - self._num_told, self._num_moves
            self._store.set(str(self._rank), json.dumps(self._progress))
            if (num_moves := self._store.add("moves", moved)) != self._num_moves_of_all:
                self._num_moves_of_all = num_moves
                self._since = self._clock()
            if dead := self._began_again():
                return f"{ranks_in_words(dead)} of {self._num} died and began again, so this attempt is over for all."
            return self._sentence() if self._is_late() else ""
        except dist.DistError:  # who keeps the store has ended, perhaps because all is done
            if not self._is_late():
                return ""
            return f"Nothing has moved for {self._limit_s:g} s, and the first process, or its agent, has ended."

    def _watch(self) -> None:
        while not self._done.wait(min(LOOKS_EVERY_S, self._limit_s / 4)):
            if sentence := self.look():
                print(f"process {self._rank}: {sentence}", file=sys.stderr, flush=True)
                leaving = threading.Thread(target=self._leave_behind, name="leaving", daemon=True)
                leaving.start()
                leaving.join(LEAVES_FOR_S)
                os._exit(EXIT_STUCK)

    def _leave_behind(self) -> None:
        if self._leave is not None:
            with suppress(OSError):  # a full disk, or storage that fails; the process ends all the same
                self._leave()

    def _is_late(self) -> bool:
        return not self._is_waiting_allowed and self._clock() - self._since > self._limit_s

    def _sentence(self) -> str:
        started = [rank for rank in range(self._num) if self._store.check([str(rank)])]
        progress = {rank: tuple(json.loads(self._store.get(str(rank)))) for rank in started}
        return stuck_sentence(progress, self._num, self._limit_s)


def stuck_sentence(progress: dict[int, tuple[int, str]], num: int, limit_s: float) -> str:
    """Who is behind, where, and where the others wait.

    Args:
        progress: of each process that has told any, how many stages it has entered, and the last one.
        num: of all processes.
        limit_s: how long nothing has moved.
    """
    said = f"Nothing has moved for {limit_s:g} s. "
    silent = [rank for rank in range(num) if rank not in progress]
    if silent:
        return f"{said}{ranks_in_words(silent)} of {num} did not tell how far they are."
    least, most = min(progress.values()), max(progress.values())
    if least[0] == most[0]:
        return f"{said}All {num} processes are in {least[1]}, so the network between them may be down."
    stuck = [rank for rank, (count, _) in progress.items() if count == least[0]]
    return f"{said}Stuck: {ranks_in_words(stuck)} of {num}, in {least[1]}. The others wait in {most[1]}."
