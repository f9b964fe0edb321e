"""Agents of `torchrun` on this machine, as if each were a node of its own, and the ranks that they start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

ROOT = Path(__file__).parents[1]

Rendezvous = Literal["static", "c10d"]

Found = TypeVar("Found")

GONE = (ProcessLookupError, FileNotFoundError)
"""A process that has ended meanwhile."""


@dataclass(frozen=True)
class Launch:
    """How a program is started by `torchrun`."""

    rendezvous: Rendezvous
    """static: the first node's address, and for each node its number. c10d: one address, and the nodes get theirs."""

    num_nodes: int
    num_ranks_per_node: int
    max_restarts: int = 0

    def agent(self, node: int, port: int, program: Sequence[str]) -> list[str]:
        """The command line of one node's agent."""
        where = {
            "static": ["--node-rank", f"{node}", "--master-addr", "127.0.0.1", "--master-port", f"{port}"],
            "c10d": ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "restarts"],
        }[self.rendezvous]
        return [
            *(sys.executable, "-m", "torch.distributed.run", *where),
            *("--nnodes", f"{self.num_nodes}", "--nproc-per-node", f"{self.num_ranks_per_node}"),
            *("--max-restarts", f"{self.max_restarts}", "-m", *program),
        ]


class Agents:
    """Those of one launch, running; what they and their ranks say goes to one file for each agent.

    Args:
        launch: how the program is started.
        program: the module and its arguments.
        directory: where the files are made.
        variables: for the environment.
    """

    def __init__(self, launch: Launch, program: Sequence[str], directory: Path, variables: Mapping[str, str]) -> None:
        port = free_port()
        self._files = [directory / f"agent{node}.txt" for node in range(launch.num_nodes)]
        self._agents = []
        for node, file in enumerate(self._files):
            with file.open("wb") as output:
                self._agents.append(
                    subprocess.Popen(
                        launch.agent(node, port, program),
                        cwd=ROOT,
                        env={**os.environ, **variables},
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def ranks(self) -> dict[int, int]:
        """The process of each rank that runs now."""
        return {
            int(variables["RANK"]): pid
            for agent in self._agents
            for pid in _children(agent.pid)
            if "RANK" in (variables := _environment(pid))
        }

    def is_running(self) -> bool:
        return any(agent.poll() is None for agent in self._agents)

    def wait(self, limit_s: float) -> list[int]:
        """Exit codes. Raises TimeoutExpired if an agent runs longer."""
        until = time.monotonic() + limit_s
        return [agent.wait(max(0.0, until - time.monotonic())) for agent in self._agents]

    def wait_for(self, find: Callable[[], Found | None], limit_s: float) -> Found:
        """What `find` finds once it finds anything. Raises RuntimeError, with what was said, where the time is over or
        the agents end first."""
        give_up = time.monotonic() + limit_s
        while not (found := find()):
            if not self.is_running() or time.monotonic() > give_up:
                raise RuntimeError(f"Nothing came of it: {self.said()[-6000:]}")
            time.sleep(0.05)
        return found

    def said(self) -> str:
        """By all agents and ranks, until now."""
        return "".join(file.read_text(errors="replace") for file in self._files)

    def end(self, node: int | None = None) -> None:
        """Kill what still runs, on one node or all."""
        for agent in self._agents if node is None else [self._agents[node]]:
            if agent.poll() is None:
                for pid in [agent.pid, *_children(agent.pid)]:  # the agent first, which would begin again
                    with suppress(*GONE):
                        os.kill(pid, signal.SIGKILL)
                agent.wait()


@contextmanager
def running(
    launch: Launch, program: Sequence[str], directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Agents]:
    """Start agents; in the end none is left."""
    agents = Agents(launch, program, directory, variables or {})
    try:
        yield agents
    finally:
        agents.end()


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_variables(rank: int, num: int, port: int) -> dict[str, str]:
    """What `torchrun` tells one of `num` processes of this machine, which meet at a port of it."""
    return {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "LOCAL_WORLD_SIZE": f"{num}",
        "WORLD_SIZE": f"{num}",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
        "TORCHELASTIC_RUN_ID": "by hand",
    }


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(*GONE):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(*GONE):
                children += map(int, file.read_text().split())
    return children


def _environment(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except GONE:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
