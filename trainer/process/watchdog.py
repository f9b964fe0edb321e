"""Names the process that keeps the others waiting, and ends a run in which nothing happens any more."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import TracebackType

import torch.distributed as dist

from trainer.process.distributed import Processes

EXIT_STUCK = 4
"""Exit code of a process whose run hung."""


class Watchdog:
    """While entered, a thread tells the other processes how far this one is, and speaks up when nothing moves.

    A process that waits for another one cannot be called back, so the thread ends it: `torchrun` then ends the others,
    and the run goes on from its last checkpoint.

    Args:
        processes: who waits for whom; with one there is nobody to wait for, and nothing is watched.
        limit_s: so long a process may take from one stage to the next.
    """

    def __init__(self, processes: Processes, limit_s: float) -> None:
        self._rank = processes.rank
        self._num = processes.num
        self._store = processes.store
        self._limit_s = limit_s
        self._progress = (0, "the start")
        self._since = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def enters(self, stage: str) -> None:
        """This process gets to a stage of a step, which all processes pass in the same order."""
        self._since = time.monotonic()
        self._progress = (self._progress[0] + 1, stage)

    def __enter__(self) -> Watchdog:
        self._since = time.monotonic()
        if self._num > 1:
            self._publish()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(5.0, self._limit_s / 4)):
            is_late = time.monotonic() - self._since > self._limit_s
            try:
                self._publish()
                sentence = self._sentence() if is_late else ""
            except dist.DistError:  # the first process, which keeps the store, has ended, perhaps because all is done
                sentence = f"Nothing has moved for {self._limit_s:g} s, and the first process has ended."
            if is_late:
                print(f"process {self._rank}: {sentence}", file=sys.stderr, flush=True)
                os._exit(EXIT_STUCK)

    def _publish(self) -> None:
        self._store.set(str(self._rank), json.dumps(self._progress))

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
        return f"{said}The processes {silent} of {num} have not started to train."
    least, most = min(progress.values()), max(progress.values())
    if least[0] == most[0]:
        return f"{said}All {num} processes are in {least[1]}, so the network between them may be down."
    stuck = [rank for rank, (count, _) in progress.items() if count == least[0]]
    return f"{said}Stuck: the processes {stuck} of {num}, in {least[1]}. The others wait in {most[1]}."
