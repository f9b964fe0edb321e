"""A checkpoint from somebody else is data, its table of contents too."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from malicious import Malicious
from trainer.config import OptimConfig
from trainer.errors import UsageError
from trainer.process.distributed import joined
from trainer.step import checkpoint
from trainer.step.checkpoint import Saver
from trainer.step.checkpoint_reader import CheckpointReader
from trainer.step.optimizer import make_optimizer
from trainer.step.training_state import TrainingState, _packed, _set_random_states_in, learned_names, random_states


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


def opened(saved: Path) -> None:
    """Load it as a run does."""
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).bfloat16()
    with joined(torch.device("cpu")) as processes:
        optimizer = make_optimizer(module, OptimConfig(lr=0.1))
        state = TrainingState(module, learned_names(module), optimizer, None, processes, seed=7)
        found = checkpoint.Checkpoint(saved.parent, "main", 3, 1, {}, {}, {}, 0)
        found.load(state, {}, processes)


def changed(saved: Path, change: Callable[[Metadata], None]) -> None:
    """Rewrite its table of contents."""
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    change(metadata)
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))


def test_an_entry_that_is_no_tensor_is_not_unpickled(saved: Path, tmp_path: Path) -> None:
    """torch would load it with weights_only=False."""
    left_behind = tmp_path / "left behind"
    file = saved / "__0_0.distcp"
    program = io.BytesIO()
    torch.save(Malicious(left_behind), program)

    def change(metadata: Metadata) -> None:
        where = metadata.storage_data[MetadataIndex("num_skipped", torch.Size([]), 0)]
        del metadata.storage_data[MetadataIndex("num_skipped", torch.Size([]), 0)]
        where.offset, where.length = file.stat().st_size, len(program.getvalue())
        metadata.storage_data[MetadataIndex("num_skipped")] = where
        metadata.state_dict_metadata["num_skipped"] = BytesStorageMetadata()

    changed(saved, change)
    file.write_bytes(file.read_bytes() + program.getvalue())
    with pytest.raises(UsageError, match="Nothing in it was run"):
        opened(saved)
    assert not left_behind.exists()


def set_size(metadata: Metadata, size: torch.Size) -> None:
    for about in metadata.state_dict_metadata.values():
        about.size = size  # type: ignore[union-attr]


def drop_chunks(metadata: Metadata) -> None:
    for about in metadata.state_dict_metadata.values():
        about.chunks = []  # type: ignore[union-attr]


def name_file(metadata: Metadata, name: Any) -> None:
    for where in metadata.storage_data.values():
        where.relative_path = name


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: set_size(metadata, torch.Size([2**40, 2**20])),
        drop_chunks,
        lambda metadata: name_file(metadata, "../../../etc/passwd"),
        lambda metadata: name_file(metadata, "/etc/passwd"),
        lambda metadata: name_file(metadata, 3),
        lambda metadata: metadata.storage_data.clear(),
        lambda metadata: setattr(metadata, "storage_data", 3),
        lambda metadata: setattr(metadata, "state_dict_metadata", [3]),
        lambda metadata: setattr(metadata, "storage_meta", 3),
    ],
)
def test_contents_that_cannot_be_are_refused(saved: Path, change: Callable[[Metadata], None]) -> None:
    changed(saved, change)
    with pytest.raises(UsageError, match=r"is not a checkpoint's table of contents"):
        opened(saved)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04r\xff\xff\xff\xff.",  # LONG_BINPUT: the C unpickler's memory of 2**32 places
        b"\x80\x05\x96\x00\x00\x00\x00\x04\x00\x00\x00.",  # BYTEARRAY8 of 16 GB
        # `_get_layout` and `Metadata` belong to torch: their attributes are not the file's to set.
        b"\x80\x04\x8c\x13torch.serialization\x8c\x0b_get_layout\x93}\x8c\x05cache}sb.",
        b"\x80\x04\x8c'torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93N}\x8c\x01a}s\x86b.",
    ],
    ids=["memo", "bytearray", "function", "class"],
)
def test_short_programs_take_no_memory_and_change_nothing(saved: Path, program: bytes) -> None:
    (saved / ".metadata").write_bytes(program)
    with pytest.raises(UsageError, match=r"Nothing in it was run"):
        CheckpointReader(saved).read_metadata()
    assert not hasattr(Metadata, "a")


@pytest.mark.parametrize(
    "change",
    [
        {"numpy": ("MT19937", torch.zeros(624), 2**20, 0, 0.0)},  # NumPy would read a megabyte behind its table
        {"numpy": ("MT19937", torch.zeros(3), 0, 0, 0.0)},
        {"numpy": 3},
        {"python": (3, (1, 2), None)},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": None},
    ],
)
def test_states_of_random_numbers_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    before = torch.rand(1), random_states()
    with pytest.raises(ValueError, match="states of random numbers that cannot be set"):
        _set_random_states_in(_packed(random_states() | change))
    assert torch.equal(before[1]["torch"], random_states()["torch"])
    with pytest.raises(ValueError, match="states of random numbers that cannot be set"):
        _set_random_states_in(torch.zeros(7, dtype=torch.uint8))
