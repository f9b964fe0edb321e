"""How the processes of one attempt find each other, and not what an earlier attempt has left behind.

`torchrun` starts all processes again when one has died, and mostly keeps the store through which they meet, with the
addresses of the dead ones in it. So each attempt gets a name of its own, below which nothing was written before. Agents
of several nodes count their attempts each for itself, so the name cannot be made of such a count: the first process
hands it out.

Every process that comes writes down a number that no other one ever gets. The first process proposes the numbers that
it finds; each process that finds its own among them confirms; when all have, the attempt begins with exactly these. A
process that has died confirms nothing, and its successor has another number, with which the first one proposes again.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch.distributed import Store

from trainer.errors import RendezvousError

TOLD_EVERY_S = 30.0
"""How often the processes that wait for others name them."""

ASKED_EVERY_S = (0.05, 0.5)
"""How often they look: at first, and when it takes longer."""


@dataclass(frozen=True)
class Attempt:
    """The processes that have found each other."""

    name: str
    """Below which they write to the store. No other attempt has the same."""

    members: Mapping[int, int]
    """The number that each rank wrote down when it came."""


class Rendezvous:
    """The part of a store that belongs to no attempt.

    Args:
        store: kept by the agent of the first node, or by the first process.
        rank: of this process.
        num: of all processes.
    """

    def __init__(self, store: Store, rank: int, num: int) -> None:
        self._store = store
        self._rank = rank
        self._num = num
        self._num_arrivals = 0

    def meet(self, limit_s: float, check: Callable[[], None] | None = None) -> Attempt:
        """Wait until all processes have come.

        Args:
            limit_s: how long.
            check: called again and again meanwhile; may raise, which ends the wait.

        Raises:
            RendezvousError: some have not come in time, and which.
        """
        began = time.monotonic()
        own = self._store.add("numbers", 1)
        self._store.set(f"arrived/{self._rank}", json.dumps([own, socket.gethostname()]))
        self._store.add("arrivals", 1)
        proposal: Attempt | None = None
        told, pause = began, ASKED_EVERY_S[0]
        while True:
            if check is not None:
                check()
            proposal = self._proposed(proposal) if self._rank == 0 else self._read("proposed")
            if proposal is not None and proposal.members.get(self._rank) == own:
                self._store.set(f"{proposal.name}/has/{self._rank}", "")
            if self._rank == 0 and proposal is not None and not self._missing(proposal):
                self._write("begun", proposal)
            begun = self._read("begun")
            if begun is not None and begun.members.get(self._rank) == own:
                return begun
            now = time.monotonic()
            if now - began > limit_s:
                raise RendezvousError(self._sentence(proposal, limit_s))
            if now - told > TOLD_EVERY_S:
                told = now
                self._tell(proposal, now - began, limit_s)
            time.sleep(pause)
            pause = min(1.5 * pause, ASKED_EVERY_S[1])

    def began_again(self, attempt: Attempt) -> list[int]:
        """The ranks whose processes of this attempt are dead, by what their successors have written."""
        num_arrivals = self._store.add("arrivals", 0)
        if num_arrivals == self._num_arrivals:
            return []
        arrived = self._arrived()
        self._num_arrivals = num_arrivals
        return [rank for rank, (number, _) in arrived.items() if number != attempt.members.get(rank)]

    def _proposed(self, before: Attempt | None) -> Attempt | None:
        """What the first process proposes: the same as before, unless another process has come since."""
        members = {rank: number for rank, (number, _) in self._arrived().items()}
        if len(members) < self._num or (before is not None and before.members == members):
            return before
        proposal = Attempt(f"attempt-{self._store.add('numbers', 1)}", members)
        self._write("proposed", proposal)
        return proposal

    def _missing(self, proposal: Attempt | None) -> dict[int, str | None]:
        """The ranks that have not come to this attempt, as far as can be told, and where they were before."""
        arrived = self._arrived()
        begun = self._read("begun")
        before = begun.members if begun is not None else {}
        missing = {}
        for rank in range(self._num):
            number, host = arrived.get(rank, (None, None))
            confirmed = proposal is None or self._store.check([f"{proposal.name}/has/{rank}"])
            if number is None or number == before.get(rank) or not confirmed:
                missing[rank] = host
        if not missing and (proposal is None or not proposal.members.keys() >= {self._rank}):
            missing[0] = arrived[0][1]  # it has died before it could propose
        return missing

    def _arrived(self) -> dict[int, tuple[int, str]]:
        ranks = [rank for rank in range(self._num) if self._store.check([f"arrived/{rank}"])]
        return {rank: tuple(json.loads(self._store.get(f"arrived/{rank}"))) for rank in ranks}

    def _tell(self, proposal: Attempt | None, waited_s: float, limit_s: float) -> None:
        """One of those who are there says who is not."""
        missing = self._missing(proposal)
        if missing and self._rank == min(set(range(self._num)) - missing.keys(), default=None):
            print(
                f"process {self._rank}: has waited {waited_s:.0f} of {limit_s:g} s for {ranks_in_words(missing)}",
                file=sys.stderr,
                flush=True,
            )

    def _sentence(self, proposal: Attempt | None, limit_s: float) -> str:
        missing = self._missing(proposal)
        hosts = sorted({host for host in missing.values() if host is not None})
        before = f" (before this attempt on {', '.join(hosts)})" if hosts else ""
        return (
            f"{ranks_in_words(missing)} of {self._num}{before} did not come within {limit_s:g} s, so the run cannot "
            "begin. Look at what they said last, and whether their nodes are up."
        )

    def _read(self, name: str) -> Attempt | None:
        if not self._store.check([name]):
            return None
        attempt: dict[str, Any] = json.loads(self._store.get(name))
        return Attempt(attempt["name"], {int(rank): number for rank, number in attempt["members"].items()})

    def _write(self, name: str, attempt: Attempt) -> None:
        self._store.set(name, json.dumps({"name": attempt.name, "members": attempt.members}))


def ranks_in_words(ranks: Collection[int]) -> str:
    """`process 3`, `processes 0, 4 to 7`."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    words = [f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts]
    return f"{'process' if len(ranks) == 1 else 'processes'} {', '.join(words)}"
