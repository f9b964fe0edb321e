"""What tests look at in the directory of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, load

from models.object_path import Place
from trainer.logging.log_file import read_log
from trainer.process.distributed import joined
from trainer.step import checkpoint

TIMES = {"step_s", "data_wait_s", "time_s", "peak_memory_bytes"}


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def steps(out: Place) -> list[dict[str, Any]]:
    """The log's steps, without times and memory. Those of a resumed run equal those of an uninterrupted one bit for
    bit, as `assert_same` says."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_log(out) if "event" not in record]


def events(out: Place) -> list[str]:
    return [record["event"] for record in read_log(out) if "event" in record]


def assert_same(left: Any, right: Any, where: str) -> None:
    """Bit for bit, tensors in nested containers included: what docs/training.md promises of a run that is resumed on
    the same CPU with the same numbers of processes and threads."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert left == right, where


def snapshot(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, by name."""
    reader = FileSystemReader(path / checkpoint.STATE)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.zeros(about.size, dtype=about.properties.dtype) for name, about in stored.items()}
    with joined(torch.device("cpu")):
        load(tensors, storage_reader=reader)
    return tensors
