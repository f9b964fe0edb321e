"""python -m bench.restarts: kill ranks of a run at random moments, and see that it comes to the same end.

Each run trains the recipe `tiny` under `torchrun --max-restarts`, with one agent of two ranks or with two agents of one
(as on two nodes), and with static and c10d rendezvous. `kill -9` takes a random rank at a random moment: while the run
trains, or while it begins again after the kill before. In the end the weights have to be those of a run that nobody
disturbed, bit for bit. Last, a whole node goes and does not come back: who is missing has to be named.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bench.agents import Agents, Launch, Rendezvous, running
from models.tensor_files import WEIGHTS_FILE
from trainer.logging.log_file import read_log
from trainer.run_files import LOG, MODEL

RENDEZVOUS: tuple[Rendezvous, ...] = ("static", "c10d")
NUM_RANKS = 2
NUM_AGENTS = (1, NUM_RANKS)
WHILE_BEGINNING = 0.25
"""The share of kills that come before the run has begun again after the one before."""

TRAINS_S = 8.0
"""So long at most it trains before the next kill."""

BEGINS_S = 5.0
"""So long at most after a kill comes another one that does not wait for the run to begin again."""

MISSING = re.compile("process 0: process 1 of 2 .*")
PATIENCE_S = 1800.0
HEADER = (
    "| rendezvous | agents | kills | of them while beginning | ended | weights equal | begun again after s: median | "
    "worst |\n|---|---:|---:|---:|---|---|---:|---:|"
)


@dataclass(frozen=True)
class Disturbed:
    """A run with kills."""

    rendezvous: Rendezvous
    num_agents: int
    num_kills: int
    num_while_beginning: int
    ended: bool
    equal: bool
    begun_again_s: tuple[float, ...]
    """From a kill to the first step's preparation of the attempt after it."""

    def row(self) -> str:
        seconds = sorted(self.begun_again_s)
        return (
            f"| {self.rendezvous} | {self.num_agents} | {self.num_kills} | {self.num_while_beginning} | "
            f"{'yes' if self.ended else 'NO'} | {'yes' if self.equal else 'NO'} | {statistics.median(seconds):.0f} | "
            f"{seconds[-1]:.0f} |"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a run did not end with the same weights, or nobody was named."""
    parser = argparse.ArgumentParser(prog="python -m bench.restarts", description=__doc__)
    parser.add_argument("--rendezvous", nargs="+", choices=RENDEZVOUS, default=RENDEZVOUS, help="default: both")
    parser.add_argument("--agents", nargs="+", type=int, choices=NUM_AGENTS, default=NUM_AGENTS, help="default: both")
    parser.add_argument("--kills", type=int, default=5, help="of each of the runs (default 5)")
    parser.add_argument("--steps", type=int, default=60, help="of each run (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    options = parser.parse_args(arguments)
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print("a run that nobody disturbs", file=sys.stderr)
        launch = Launch("static", 1, NUM_RANKS)
        with running(launch, program(directory / "alone", options.steps), directory) as agents:
            codes = agents.wait(PATIENCE_S)
        if codes != [0]:
            raise RuntimeError(f"The run that nobody disturbed ended with {codes}: {agents.said()[-2000:]}")
        expected = digest(directory / "alone")
        shutil.rmtree(directory / "alone")
        print(HEADER)
        runs = []
        for rendezvous, num_agents in product(options.rendezvous, options.agents):
            runs.append(disturb(directory, rendezvous, num_agents, options.steps, options.kills, moments, expected))
            print(runs[-1].row(), flush=True)
        print()
        named_after_s, sentence = missing_node(directory, options.steps)
        print(f"A node that does not come back, named after {named_after_s:.0f} s: {sentence!r}")
    return 0 if all(run.ended and run.equal for run in runs) and sentence else 1


def program(out: Path, num_steps: int) -> tuple[str, ...]:
    """A small run with checkpoints that are written while it trains."""
    return (
        *("trainer.pretrain", "tiny", "--out", str(out), "--device", "cpu", "--num_threads", "1"),
        *("--num_steps", f"{num_steps}", "--encoder_pretraining.num_steps", "0", "--data.num_rows", f"{NUM_RANKS}"),
        *("--checkpoint.every", "3", "--logging.every", "10"),
    )


def disturb(
    directory: Path,
    rendezvous: Rendezvous,
    num_agents: int,
    num_steps: int,
    num_kills: int,
    moments: random.Random,
    expected: str,
) -> Disturbed:
    """Make one run with kills; its directory is removed."""
    out = directory / f"{rendezvous}-{num_agents}"
    launch = Launch(rendezvous, num_agents, NUM_RANKS // num_agents, max_restarts=3 * num_kills)
    begun_again_s: list[float] = []
    made = while_beginning = 0
    with running(launch, program(out, num_steps), directory) as agents:
        agents.wait_for(lambda: starts(out), PATIENCE_S)
        killed_at = 0.0
        while made < num_kills and agents.is_running():
            if made and moments.random() < WHILE_BEGINNING:
                while_beginning += 1
                time.sleep(moments.uniform(0.0, BEGINS_S))
            else:
                if made:
                    begun_again_s.append(wait_for_start(out, killed_at, agents))
                time.sleep(moments.uniform(0.0, TRAINS_S))
            killed_at = kill(agents, moments.randrange(NUM_RANKS))
            made += 1
        begun_again_s.append(wait_for_start(out, killed_at, agents))
        codes = agents.wait(PATIENCE_S)
    ended, equal = codes == [0] * num_agents, digest(out) == expected
    if not (ended and equal):
        print(agents.said()[-6000:], file=sys.stderr)
    shutil.rmtree(out)
    return Disturbed(rendezvous, num_agents, made, while_beginning, ended, equal, tuple(begun_again_s))


def missing_node(directory: Path, num_steps: int) -> tuple[float, str]:
    """The second of two nodes goes; how long until the first one names who is missing, and how it says it."""
    out = directory / "missing"
    with running(Launch("static", NUM_RANKS, 1, max_restarts=3), program(out, num_steps), directory) as agents:
        agents.wait_for(lambda: starts(out), PATIENCE_S)
        agents.end(node=1)
        gone_at = time.time()
        found = agents.wait_for(lambda: MISSING.search(agents.said()), PATIENCE_S)
        named_at = time.time()
    shutil.rmtree(out)
    return named_at - gone_at, found[0]


def kill(agents: Agents, rank: int) -> float:
    """`kill -9` of the process that is this rank now; returns when."""
    pid = agents.wait_for(lambda: agents.ranks().get(rank), PATIENCE_S)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return time.time()


def starts(out: Path) -> list[float]:
    """When the attempts of a run had all that their first step needs."""
    if not (out / LOG).exists():
        return []
    return [record["time_s"] for record in read_log(out) if record.get("event") == "start"]


def wait_for_start(out: Path, killed_at: float, agents: Agents) -> float:
    """Seconds from a kill until the next attempt begins."""
    return min(agents.wait_for(lambda: [at for at in starts(out) if at > killed_at], PATIENCE_S)) - killed_at


def digest(out: Path) -> str:
    """SHA-256 of the trained weights; nothing where there are none."""
    file = out / MODEL / WEIGHTS_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
