"""Several processes on this machine that find each other as those of `torchrun` do, without the seconds that importing
everything takes: they are forked from one that has done it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["trainer.pretrain"])


def start(function: Callable[..., int], num: int, *arguments: Any) -> list[Any]:
    """`num` processes that exit with what `function(*arguments)` returns; the function has a module of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [CONTEXT.Process(target=_as_rank, args=(rank, num, port, function, arguments)) for rank in range(num)]
    for process in started:
        process.start()
    return started


def exit_codes(started: list[Any], timeout_s: float = 300) -> list[int]:
    """Wait for all; what still runs after so many seconds is killed, and its code is -9."""
    give_up = time.monotonic() + timeout_s
    try:
        for process in started:
            process.join(max(0.0, give_up - time.monotonic()))
    finally:
        for process in started:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
    return [process.exitcode for process in started]


def run(function: Callable[..., int], num: int, *arguments: Any) -> list[int]:
    """Exit codes of `num` processes that call `function(*arguments)`."""
    return exit_codes(start(function, num, *arguments))


def _as_rank(rank: int, num: int, port: int, function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    if num > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            LOCAL_WORLD_SIZE=str(num),
            WORLD_SIZE=str(num),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test",
        )
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
