"""What the loader holds and how long its first item takes: items of one micro-batch as whole numbers, beside items of a
process's whole step in float32, which is how it was.

python -m bench.loader

Rows as the paper's: 2,048 tokens, images read at 224 px and drawn at 512 px. Both give the same numbers, which is
checked. Shared memory is what the files of PyTorch's shared memory take that this process and its workers hold,
looked at every few milliseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.object_storage import digest, write_shards
from trainer.data.config import CorpusConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.index import make_index
from trainer.data.paper import paper_pairs
from trainer.recipes.paper import paper_13b
from trainer.step.dataloader import micro_batch_loader
from trainer.step.phase import Phase


class SharedMemory:
    """The most bytes of shared memory that this process and its children held while the block ran."""

    def __enter__(self) -> SharedMemory:
        self.most = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ends.wait(0.005):
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            sizes: dict[int, int] = {}
            for pid in pids:
                try:
                    for name in os.listdir(f"/proc/{pid}/fd"):
                        if "/dev/shm/torch_" in os.readlink(f"/proc/{pid}/fd/{name}"):
                            found = os.stat(f"/proc/{pid}/fd/{name}")
                            sizes[found.st_ino] = found.st_size
                except FileNotFoundError:  # it was closed meanwhile, or the process has ended
                    continue
            self.most = max(self.most, sum(sizes.values()))


def run(
    batch: Callable[[int, range], Any], rows: Sequence[range], num_steps: int, workers: int
) -> tuple[float, int, list[str]]:
    """Seconds until the first item, the most shared memory, and a digest of all batches."""
    phase = Phase("main", 1, torch.nn.Identity(), batch, 4, len, dict, len, num_steps, None)  # type: ignore[arg-type]
    digests = []
    with SharedMemory() as shared:
        begin = time.perf_counter()
        with micro_batch_loader(phase, rows, 0, workers, pin_memory=False) as steps:
            for number, step in enumerate(steps):
                if number == 0:
                    first = time.perf_counter() - begin
                digests.append(digest(torch.cat([item.to("cpu").pixel_values for item in step])))
    return first, shared.most, digests


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.loader", description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="of a step, in micro-batches of 2")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=200)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "data").mkdir()
        write_shards(root / "data", 2, args.pairs // 2)
        make_index([root / "data"], root / "index")
        config = CorpusConfig({"pairs": paper_pairs(str(root / "index"))}, num_rows=args.rows, row_tokens=2048)
        stream = CorpusStream(config, paper_13b().model, seed=0)
        halves = [range(row, row + 2) for row in range(0, args.rows, 2)]
        one = stream.compact_part(0, halves[0])
        print(f"a micro-batch of 2 rows has {len(one.images)} images, {len(one.drawn_images)} of them drawn\n")
        print("| items | bytes of one | most shared memory | first item after |")
        print("|---|---|---|---|")
        measured = {}
        for name, batch, rows in (
            ("a step's rows, float32 (before)", stream.part, [range(args.rows)]),
            ("a micro-batch, whole numbers", stream.compact_part, halves),
        ):
            size = sum(tensor.nbytes for tensor in tensors(batch(0, rows[0])))
            first, most, measured[name] = run(batch, rows, args.steps, args.workers)
            assert len({tuple(digests) for digests in measured.values()}) == 1, "the batches differ"
            print(f"| {name} | {size / 1e6:.1f} MB | {most / size:.2f} items, {most / 1e6:.1f} MB | {first:.2f} s |")


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a batch."""
    if isinstance(value, torch.Tensor):
        return [value]
    if not dataclasses.is_dataclass(value):
        return []
    return [tensor for one in dataclasses.fields(value) for tensor in tensors(getattr(value, one.name))]


if __name__ == "__main__":
    main()
