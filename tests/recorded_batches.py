"""Whole runs that leave behind what they trained on, for tests with one process or several."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from unittest import mock

from models import Batch
from trainer import phases
from trainer.data.compact_batch import CompactBatch
from trainer.data.corpus_stream import CorpusStream
from trainer.pretrain import main
from trainer.step import checkpoint


def train(out: str, options: Sequence[str], trouble: tuple[int, int, str] | None = None) -> int:
    """`python -m trainer.pretrain` on a corpus, one row at a time; returns its exit code.

    Leaves a line for each row that a process has made in batches-<process id>.jsonl in `out`: step, row and a hash of
    all that the model gets of it. With `trouble`, a process is sent a signal at a step, once there is a checkpoint.
    """
    rank, trouble_step, number = trouble or (0, -1, "")

    class Recording(CorpusStream):
        def compact_part(self, step: int, rows: range) -> CompactBatch:
            batch = super().compact_part(step, rows)
            [row] = rows
            with Path(out, f"batches-{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps([step, row, hash_of(batch.to("cpu"))]) + "\n")
            if step == trouble_step and rank == int(os.environ["RANK"]):
                while checkpoint.find_latest(Path(out, "checkpoints")) is None:
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.Signals[number])
            return batch

    with mock.patch.object(phases, "CorpusStream", Recording):
        return main([*options, "--out", out, "--num_workers", "0", "--memory.micro_batch_rows", "1"])


def hash_of(batch: Batch) -> str:
    """Of every bit of it."""
    hashed = hashlib.blake2b(digest_size=8)
    for field in fields(batch):
        tensor = getattr(batch, field.name)
        if tensor is not None:
            hashed.update(f"{field.name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()


def batches(out: Path) -> dict[tuple[int, int], set[str]]:
    """By step and row, the hashes of what was made for it, by whichever process."""
    found: dict[tuple[int, int], set[str]] = {}
    for file in out.glob("batches-*.jsonl"):
        for line in file.read_text().splitlines():
            step, row, hashed = json.loads(line)
            found.setdefault((step, row), set()).add(hashed)
    return found
