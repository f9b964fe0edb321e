"""Several processes on this machine that find each other as those of `torchrun` do, without the seconds that importing
everything takes: they are forked from one that has done it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import TCPStore

from bench.agents import rank_variables
from bench.forked import CONTEXT

PATIENCE_S = 900
"""A run of seconds may take minutes on a machine that does other things too; after so many it hangs."""


def run(function: Callable[..., int], num: int, *arguments: Any) -> list[int]:
    """Exit codes of `num` processes that call `function(*arguments)` and exit with what it returns; the function has a
    module of its own. What still runs when patience ends is killed, and its code is -9."""
    # As with torchrun, they meet at a store that this process keeps, on a port that nobody can take meanwhile.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [
        CONTEXT.Process(target=_as_rank, args=(rank, num, store.port, function, arguments)) for rank in range(num)
    ]
    for process in started:
        process.start()
    give_up = time.monotonic() + PATIENCE_S
    try:
        for process in started:
            process.join(max(0.0, give_up - time.monotonic()))
    finally:
        for process in started:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
    return [process.exitcode for process in started]


def _as_rank(rank: int, num: int, port: int, function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    if num > 1:
        os.environ.update(rank_variables(rank, num, port), TORCHELASTIC_USE_AGENT_STORE=str(True))
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
