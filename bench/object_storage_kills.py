"""python -m bench.object_storage_kills: kill runs whose --out is in a bucket at random moments, and see that the same
command goes on with them.

Each run trains the recipe `tiny` into a bucket of moto's S3 server, with a checkpoint after every step. `kill -9` takes
it at a random moment, or at a random one of its requests: half of these still get to the storage, the others do not.
After each kill, the newest complete checkpoint has to be as it was written, and no older than before. In the end the
weights have to be those of a run on a disk that nobody disturbed, bit for bit, the log has every step once, and the
bucket holds no object more and none less than after a run that nobody disturbed.

With `--processes 2`, `torchrun --max-restarts` starts the ranks of each run, and a random one is killed at a random
request of any of them. All ranks begin again by themselves then, and the same is looked at.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.agents import Agents, Launch, free_port, rank_variables, running
from bench.forked import CONTEXT
from bench.object_servers import Bucket, Request, WebStorage, s3_bucket, serving
from models.digests import file_sha256
from models.object_path import ObjectPath
from models.tensor_files import WEIGHTS_FILE
from trainer.logging.log_file import read_log
from trainer.pretrain import main as pretrain
from trainer.process.lease import LEASE_FILE
from trainer.run_files import CHECKPOINTS, MODEL, TENSORBOARD
from trainer.step import checkpoint

PATIENCE_S = 900.0
TAKEN_BY_THE_STORAGE = 0.5
"""The share of requests at which a run is killed that still get to the storage."""

KILLS_OF_RANKS = 3
"""Of each run, at most."""

UNDER_WAY_S = 0.2
"""So long after a kill the storage may still work at requests that came before it."""


@dataclass(frozen=True)
class Moment:
    """When a run is killed."""

    after_s: float
    """After its process has begun; what counts where `request` is 0."""

    request: int = 0
    """At so manieth request to the storage, counted from 1."""

    reaches_storage: bool = False
    """Whether that request is still carried out."""

    rank: int = 0
    """Who is killed."""


def random_moments(generator: random.Random, whole: Whole) -> Iterator[Moment]:
    """Endlessly many, of runs that would last as long as one that nobody disturbs."""
    while True:
        if generator.random() < 0.5:
            yield Moment(generator.uniform(0.0, whole.seconds))
        else:
            yield random_request(generator, whole)


def random_request(generator: random.Random, whole: Whole, num_processes: int = 1) -> Moment:
    """One of those of a run that nobody disturbs, with a random rank to be killed at it."""
    reaches = generator.random() < TAKEN_BY_THE_STORAGE
    rank = generator.randrange(num_processes)
    return Moment(PATIENCE_S, generator.randint(1, len(whole.requests)), reaches, rank)


@dataclass(frozen=True)
class Whole:
    """A run into a bucket that nobody disturbs."""

    seconds: float
    requests: tuple[Request, ...]
    names: frozenset[str]
    """Of the objects that it leaves, but for TensorBoard's, of which each start makes one, and the lease, which stays
    where a run is killed that has told its end."""


@dataclass(frozen=True)
class Killed:
    """What came of one run."""

    moments: tuple[Moment, ...]
    """Of all kills."""

    exit_code: int
    """Of the process that nobody killed, or of `torchrun`."""

    problems: tuple[str, ...]
    """What was not as it has to be, in sentences."""


class Runs:
    """Runs into a bucket, by way of a server that counts requests.

    Args:
        bucket: where to.
        web: stands before it.
        directory: for what processes say and for their caches.
        num_steps: of each run.
        num_processes: that train together.
    """

    def __init__(
        self, bucket: Bucket, web: WebStorage, directory: Path, num_steps: int, num_processes: int = 1
    ) -> None:
        self._bucket = bucket
        self._web = web
        self._directory = directory
        self._num_steps = num_steps
        self._num_processes = num_processes
        self._variables = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "AWS_ENDPOINT_URL": web.url,
            "XDG_CACHE_HOME": str(directory / "cache"),
        }

    def undisturbed(self, name: str) -> Whole:
        """A run to its end. Raises RuntimeError where it does not come to it."""
        self._web.requests.clear()
        begun = time.monotonic()
        train_undisturbed(self._arguments(name), self._num_processes, self._variables, self._said(name))
        return Whole(time.monotonic() - begun, tuple(self._web.requests), self._names(name))

    def killed(self, name: str, whole: Whole, expected: str, moments: Iterator[Moment]) -> Killed:
        """A run that is killed until it comes to its end, or no moment is left.

        Args:
            name: of the run in the bucket.
            whole: one that nobody disturbs.
            expected: SHA-256 of the weights in the end.
            moments: one for each start of the command.
        """
        kills: list[Moment] = []
        problems: list[str] = []
        step = 0
        while True:
            moment = next(moments, None)
            code = self._attempt(name, moment)
            before, step = step, self._check(name, problems)
            if step < before:
                problems.append(f"the newest complete checkpoint is of step {step}, and was of step {before}")
            if moment is None or code != -signal.SIGKILL:
                break
            kills.append(moment)
        if code == 0:
            self._check_end(name, whole, expected, problems)
        return Killed(tuple(kills), code, tuple(problems))

    def killed_ranks(self, name: str, whole: Whole, expected: str, moments: Sequence[Moment]) -> Killed:
        """A run under `torchrun`, of which a rank is killed at a request of each attempt, until no moment is left or
        the run ends before it. Arguments as of `killed`."""
        kills: list[Moment] = []
        problems: list[str] = []
        step = 0
        pids: set[int] = set()
        directory = self._directory / name
        directory.mkdir()
        launch = Launch("static", 1, self._num_processes, max_restarts=len(moments))
        with running(launch, ("trainer.pretrain", *self._arguments(name)), directory, self._variables) as agents:
            for moment in moments:
                pids = self._next_attempt(agents, pids)
                with self._rank_killed(agents, moment) as was_killed:
                    if not was_killed:
                        break
                    kills.append(moment)
                    before, step = step, self._check(name, problems)
                if step < before:
                    problems.append(f"the newest complete checkpoint is of step {step}, and was of step {before}")
            (code,) = agents.wait(PATIENCE_S)
            self._said(name).write_text(agents.said())
        if code == 0:
            self._check_end(name, whole, expected, problems)
        return Killed(tuple(kills), code, tuple(problems))

    def said(self, name: str) -> str:
        """By all processes of a run."""
        return self._said(name).read_text(errors="replace")

    def _said(self, name: str) -> Path:
        return self._directory / f"{name}.txt"

    def _arguments(self, name: str) -> tuple[str, ...]:
        return command(self._place(name).url, self._num_steps, self._num_processes)

    def _place(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self._bucket.url}/{name}")

    def _names(self, name: str) -> frozenset[str]:
        below = [one.removeprefix(f"{name}/") for one in self._bucket.names() if one.startswith(f"{name}/")]
        return frozenset(one for one in below if one != LEASE_FILE and not one.startswith(f"{TENSORBOARD}/"))

    def _check(self, name: str, problems: list[str]) -> int:
        """Look at all complete checkpoints, as the next process will find them; returns the step of the newest."""
        place = self._place(name)
        complete = checkpoint.find_all(place / CHECKPOINTS)
        for one in complete:
            problems += [
                f"{one.path / file} is not as it was written"
                for file, digest in one.sha256.items()
                if file_sha256(one.path / file) != digest
            ]
        step = complete[-1].step if complete else 0
        if step:
            logged = {record["step"] for record in read_log(place) if "event" not in record}
            if missing := set(range(1, step + 1)) - logged:
                problems.append(f"log.jsonl lacks the steps {sorted(missing)} of a complete checkpoint")
        return step

    def _check_end(self, name: str, whole: Whole, expected: str, problems: list[str]) -> None:
        """Look at what a run that has come to its end has left."""
        place = self._place(name)
        if (found := file_sha256(place / MODEL / WEIGHTS_FILE)) != expected:
            problems.append(f"the weights are {found}, expected {expected}")
        steps = [record["step"] for record in read_log(place) if "event" not in record]
        if steps != list(range(1, self._num_steps + 1)):
            problems.append(f"log.jsonl has the steps {steps}")
        if differing := sorted(self._names(name) ^ whole.names):
            problems.append(f"objects too many or missing: {', '.join(differing)}")

    def _next_attempt(self, agents: Agents, earlier: set[int]) -> set[int]:
        """The processes of all ranks, as soon as none is one of the attempt before."""

        def begun() -> set[int] | None:
            pids = set(agents.ranks().values())
            return pids if len(pids) == self._num_processes and pids.isdisjoint(earlier) else None

        return agents.wait_for(begun, PATIENCE_S)

    @contextmanager
    def _rank_killed(self, agents: Agents, moment: Moment) -> Iterator[bool]:
        """Kill a rank at a request, or wait for the end of the run: whether it came to the kill. Meanwhile the other
        ranks' requests wait, so that one sees what the kill has left."""
        numbers = itertools.count(1)
        killed, seen = threading.Event(), threading.Event()

        def fault(_request: Request, _number: int) -> int | None:
            if killed.is_set():
                seen.wait()
            elif next(numbers) == moment.request and (pid := agents.ranks().get(moment.rank)) is not None:
                os.kill(pid, signal.SIGKILL)
                killed.set()
                return None if moment.reaches_storage else http.client.SERVICE_UNAVAILABLE
            return None

        self._web.fault = fault
        try:
            agents.wait_for(lambda: killed.is_set() or not agents.is_running(), PATIENCE_S)
            time.sleep(UNDER_WAY_S)
            yield killed.is_set()
        finally:
            self._web.fault = lambda request, number: None
            seen.set()

    def _attempt(self, name: str, moment: Moment | None) -> int:
        """Start the command and kill it at a moment; returns its exit code."""
        process = CONTEXT.Process(target=_train, args=(self._arguments(name), self._variables, self._said(name)))
        numbers = itertools.count(1)

        def fault(_request: Request, _number: int) -> int | None:
            if moment is None or next(numbers) != moment.request:
                return None
            process.kill()
            return None if moment.reaches_storage else http.client.SERVICE_UNAVAILABLE

        self._web.fault = fault
        try:
            process.start()
            process.join(PATIENCE_S if moment is None else moment.after_s)
        finally:
            process.kill()
            process.join()
            self._web.fault = lambda request, number: None
        assert process.exitcode is not None
        return process.exitcode


def command(out: str, num_steps: int, num_processes: int = 1) -> tuple[str, ...]:
    """The arguments of trainer.pretrain."""
    return (
        *("tiny", "--out", out, "--device", "cpu", "--num_threads", "1", "--num_steps", f"{num_steps}"),
        *("--encoder_pretraining.num_steps", "0", "--data.num_rows", f"{num_processes}"),
        *("--checkpoint.every", "1"),
    )


def _train(arguments: Sequence[str], variables: Mapping[str, str], output: Path) -> None:
    os.environ.update(variables)
    with output.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(pretrain(arguments))


def train_undisturbed(arguments: Sequence[str], num_processes: int, variables: Mapping[str, str], output: Path) -> None:
    """Train in so many processes. Raises RuntimeError if one of them fails."""
    port = free_port()
    ranks = range(num_processes if num_processes > 1 else 0)
    environments = [{**variables, **rank_variables(rank, num_processes, port)} for rank in ranks] or [{**variables}]
    processes = [CONTEXT.Process(target=_train, args=(arguments, each, output)) for each in environments]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE_S)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if any(codes := [process.exitcode for process in processes]):
        raise RuntimeError(f"The run that nobody disturbed ended with {codes}: {output.read_text()[-3000:]}")


@contextmanager
def runs_into_a_bucket(directory: Path, num_steps: int, num_processes: int = 1) -> Iterator[Runs]:
    """Into an empty one of moto's S3 server."""
    with s3_bucket() as bucket, serving(behind=bucket.endpoint) as web:
        yield Runs(bucket, web, directory, num_steps, num_processes)


def weights_on_a_disk(directory: Path, num_steps: int, num_processes: int = 1) -> str:
    """SHA-256 of what a run that nobody disturbs leaves in a directory. Raises RuntimeError if it fails."""
    arguments = command(str(directory / "disk"), num_steps, num_processes)
    train_undisturbed(arguments, num_processes, {}, directory / "disk.txt")
    return file_sha256(directory / "disk" / MODEL / WEIGHTS_FILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if anything was not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m bench.object_storage_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of all runs together (default 20)")
    parser.add_argument("--steps", type=int, default=5, help="of each run (default 5)")
    parser.add_argument("--processes", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    options = parser.parse_args(arguments)
    generator = random.Random(options.seed)
    found: list[Killed] = []
    left = options.kills
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        expected = weights_on_a_disk(directory, options.steps, options.processes)
        with runs_into_a_bucket(directory, options.steps, options.processes) as runs:
            whole = runs.undisturbed("whole")
            print(f"a run that nobody disturbs: {len(whole.requests)} requests, {whole.seconds:.1f} s", file=sys.stderr)
            while left:
                name = f"run-{len(found)}"
                if options.processes > 1:
                    num_kills = min(left, KILLS_OF_RANKS)
                    requests = [random_request(generator, whole, options.processes) for _ in range(num_kills)]
                    found.append(runs.killed_ranks(name, whole, expected, requests))
                else:
                    moments = itertools.islice(random_moments(generator, whole), left)
                    found.append(runs.killed(name, whole, expected, moments))
                left -= len(found[-1].moments)
                for problem in found[-1].problems:
                    print(f"{name}: {problem}", file=sys.stderr)
                if found[-1].exit_code != 0:
                    print(runs.said(name)[-6000:], file=sys.stderr)
                print(f"{name}: {len(found[-1].moments)} kills, {left} left", file=sys.stderr)
    kills = [moment for run in found for moment in run.moments]
    good = sum(run.exit_code == 0 and not run.problems for run in found)
    print("| kills | of them at a request | runs | went on to the same end |\n|---:|---:|---:|---:|")
    print(f"| {len(kills)} | {sum(kill.request > 0 for kill in kills)} | {len(found)} | {good} |")
    return 0 if good == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
