"""A checkpoint from somebody else is data, its table of contents too."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader

from trainer.config import OptimConfig
from trainer.errors import UsageError
from trainer.process.distributed import joined
from trainer.step import checkpoint
from trainer.step.checkpoint import Saver
from trainer.step.checkpoint_reader import CheckpointReader
from trainer.step.optimizer import make_optimizer
from trainer.step.training_state import TrainingState, learned_names


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a checkpoint's state."""
    with joined(torch.device("cpu")) as processes, Saver(tmp_path, processes, keep_latest=1) as saver:
        module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).bfloat16()
        optimizer = make_optimizer(module, OptimConfig(lr=0.1))
        state = TrainingState(module, learned_names(module), optimizer, None, processes, seed=7)
        saver.save(state, phase="main", phase_index=1, step=3, config={}, base={})
    assert saver.latest is not None
    return saver.latest / checkpoint.STATE


def test_it_reads_what_torch_reads(saved: Path) -> None:
    ours, torchs = (reader(saved).read_metadata() for reader in (CheckpointReader, FileSystemReader))
    assert ours.storage_meta is not None
    assert torchs.storage_meta is not None
    ours.storage_meta.load_id = torchs.storage_meta.load_id
    assert ours == torchs
    assert len(ours.state_dict_metadata) > 4


def test_nothing_that_it_names_is_run(saved: Path, tmp_path: Path) -> None:
    left_behind = tmp_path / "left behind"
    (saved / ".metadata").write_bytes(pickle.dumps(Malicious(left_behind)))
    with pytest.raises(UsageError, match=r"is not a checkpoint's table of contents.*Nothing in it was run"):
        CheckpointReader(saved).read_metadata()
    assert not left_behind.exists()
    pickle.loads((saved / ".metadata").read_bytes())
    assert left_behind.exists(), "the pickle of this test does nothing"


@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps({"a": 1})], ids=["empty", "cut off", "another"])
def test_a_damaged_one_is_refused(saved: Path, content: bytes) -> None:
    (saved / ".metadata").write_bytes(content)
    with pytest.raises(UsageError, match="table of contents"):
        CheckpointReader(saved).read_metadata()
