"""How much memory of the machine the processes of a run take together at its start and its end, in copies of the model.

python -m bench.start_memory

Several processes (gloo) make a model of about 1 GB, share it out as a training does, and save it. Their memory is the
sum of what Linux counts for each, a page that several map shared out among them (PSS), sampled all the time. What they
have before, after a tiny model was begun, saved and thrown away (Python and the libraries), is taken off. Before
anything is told, the saved model is loaded and compared with the one of a single process.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from bench.agents import free_port, rank_variables
from models.tensor_files import WEIGHTS_FILE, read_tensors
from trainer.config import TrainConfig
from trainer.phases import make_phases
from trainer.process.distributed import Processes, joined
from trainer.recipes import tiny
from trainer.run_directory import save_model
from trainer.starting_model import StartingModel, begin_model, make_model
from trainer.step.fsdp import ParallelModule

HIDDEN, LAYERS = 1024, 17
INTERVAL_S = 0.01
PHASES = ("start", "end")


@dataclass(frozen=True)
class Case:
    """A way to begin."""

    name: str
    init: str | None = None
    shard_size: int = 0
    frozen: bool = False
    """The language model is frozen, in bfloat16, and its layers are shared too."""


def settings(case: Case, out: Path) -> TrainConfig:
    """A model that is a language model for the most part, with layers of 52 MB."""
    base = tiny()
    language_model = replace(
        base.model.language_model,
        transformer=base.model.language_model.transformer
        | {
            "hidden_size": HIDDEN,
            "intermediate_size": 2816,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        mmfs_every=LAYERS,
    )
    return replace(
        base,
        out=str(out),
        model=replace(base.model, language_model=language_model),
        encoder_pretraining=replace(base.encoder_pretraining, num_steps=0),
        init=case.init,
        frozen=["language_model"] if case.frozen else [],
        precision="bfloat16" if case.frozen else "float32",
        parallel=replace(base.parallel, shard_size=case.shard_size, shard_layers=case.shard_size != 1),
    )


def take_part(rank: int, num: int, port: int, case: Case, out: str, barrier: Barrier) -> None:
    """One process of a run, from its beginning to the weights in their places, and from there to `model/`."""
    os.environ.update(rank_variables(rank, num, port))
    torch.set_num_threads(1)
    config = settings(case, Path(out))
    device = torch.device("cpu")
    with joined(device) as processes:
        begun = begin(
            replace(config, init=None, model=tiny().model), processes, device
        )  # what is imported late, is now
        save_model(begun[0].model, Path(out) / "small", is_main_process=processes.is_first)
        del begun
        gc.collect()
        barrier.wait()
        barrier.wait()
        start, parallel = begin(config, processes, device)
        barrier.wait()
        barrier.wait()
        save_model(start.model, Path(out) / "model", is_main_process=processes.is_first)
        barrier.wait()
        del parallel


def begin(config: TrainConfig, processes: Processes, device: torch.device) -> tuple[StartingModel, ParallelModule]:
    """What a run does before its first step."""
    torch.manual_seed(config.seed)
    start = begin_model(config, processes)
    (phase,) = make_phases(start, config, writes=False)
    shard_size = config.parallel.shard_size
    module = phase.module.train()
    stack = phase.stack if config.parallel.shard_layers else None
    return start, ParallelModule(module, processes, device, shard_size, stack, stored=phase.stored)


def pss_bytes(pids: Sequence[int]) -> int:
    """Of all processes together."""
    total = 0
    for pid in pids:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        total += 1024 * int(found[1])
    return total


class Peak:
    """The most memory that processes have taken together while this was entered."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.bytes = 0
        self._pids = pids
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._is_over.is_set():
            self.bytes = max(self.bytes, pss_bytes(self._pids))
            time.sleep(INTERVAL_S)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()


def measured(case: Case, num: int, out: Path) -> dict[str, int]:
    """Peak bytes of each phase above what the processes had before it was begun with a model."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num + 1)
    port = free_port()
    workers = [
        context.Process(target=take_part, args=(rank, num, port, case, str(out), barrier)) for rank in range(num)
    ]
    for worker in workers:
        worker.start()
    pids = [worker.pid for worker in workers if worker.pid is not None]
    barrier.wait()
    before = pss_bytes(pids)
    peaks = {}
    for name in PHASES:
        with Peak(pids) as peak:
            barrier.wait()  # let them begin
            barrier.wait()  # until they are done
        peaks[name] = peak.bytes - before
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, f"a process ended with {worker.exitcode}"
    return peaks


def check(saved: Path, config: TrainConfig) -> int:
    """Compare a saved model with the one that a single process makes; returns the bytes of its weights."""
    torch.manual_seed(config.seed)
    expected = make_model(config)
    written = read_tensors(saved / WEIGHTS_FILE)
    dtypes = {name: tensor.dtype for name, tensor in written.items()}
    for name, tensor in expected.state_dict().items():
        assert torch.equal(written[name], tensor.to(dtypes[name])), name
    return sum(tensor.nbytes for tensor in written.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.start_memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args(arguments)
    print(f"{options.processes} processes; the most memory of all together, in copies of the model")
    print("| begins with | model, GB | start | end |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        random = Path(folder) / "random"
        cases = [
            Case("random weights"),
            Case("--init", init=str(random / "model")),
            Case("--init, the language model frozen in bfloat16", init=str(random / "model"), frozen=True),
            Case("--init, a copy in each process (shard_size 1)", init=str(random / "model"), shard_size=1),
        ]
        for case in cases:
            out = random if case.init is None else Path(folder) / "out"
            out.mkdir(exist_ok=True)
            peaks = measured(case, options.processes, out)
            size = check(out / "model", settings(case, out))
            told = " | ".join(f"{peaks[name] / size:.2f}" for name in PHASES)
            print(f"| {case.name} | {size / 1e9:.2f} | {told} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
