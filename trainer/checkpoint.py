"""Checkpoints that are complete or not there: written aside, synced, renamed; only complete ones are found.

A checkpoint is a directory `<phase>-<step>` with the module's weights (safetensors), the rest of the training state
(a PyTorch file without code) and checkpoint.json, which says what it is and how large its files are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from trainer.config import UsageError

WEIGHTS = "weights.safetensors"
STATE = "training_state.pt"
MANIFEST = "checkpoint.json"
LATEST = "LATEST"
UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    phase: str
    step: int
    """Steps of the phase that are done; the data position, since step s trains on batch s."""

    phase_index: int
    config: dict[str, Any]

    def load(self, module: nn.Module) -> dict[str, Any]:
        """Put the weights into `module`, strictly; returns the rest of the training state, on the CPU."""
        load_model(module, self.path / WEIGHTS)
        return torch.load(self.path / STATE, map_location="cpu", weights_only=True)


def save(
    directory: Path,
    *,
    phase: str,
    phase_index: int,
    step: int,
    config: Mapping[str, Any],
    module: nn.Module,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint, make it the latest, and remove all but the newest `keep`.

    A kill at any moment leaves the previous latest one in place. A complete checkpoint of the same phase and step is
    left as it is, since the same run made it.
    """
    final = directory / f"{phase}-{step:07d}"
    if read(final) is None:
        directory.mkdir(parents=True, exist_ok=True)
        for left_over in directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left_over)
        unfinished = directory / f"{UNFINISHED}{final.name}"
        unfinished.mkdir()
        save_model(module, str(unfinished / WEIGHTS))
        torch.save(dict(state), unfinished / STATE)
        manifest = {
            "phase": phase,
            "phase_index": phase_index,
            "step": step,
            "file_sizes_bytes": {name: (unfinished / name).stat().st_size for name in (WEIGHTS, STATE)},
            "config": dict(config),
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in (*unfinished.iterdir(), unfinished):
            _sync(file)
        if final.exists():  # incomplete, says read()
            shutil.rmtree(final)
        unfinished.rename(final)
    _point_latest_to(final)
    for old in find_all(directory)[:-keep]:
        shutil.rmtree(old.path)
    return final


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in a directory; None if it is not there, or not complete."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        sizes = {name: (path / name).stat().st_size for name in (WEIGHTS, STATE)}
    except (OSError, ValueError):
        return None
    if path.name.startswith(UNFINISHED) or sizes != manifest["file_sizes_bytes"]:
        return None
    return Checkpoint(path, manifest["phase"], manifest["step"], manifest["phase_index"], manifest["config"])


def find_all(directory: Path) -> list[Checkpoint]:
    """The complete checkpoints in a directory, in the order in which the run passes them."""
    found = [checkpoint for path in directory.glob("*-*") if (checkpoint := read(path)) is not None]
    return sorted(found, key=lambda checkpoint: (checkpoint.phase_index, checkpoint.step))


def find_latest(directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint in a directory, None without one."""
    found = find_all(directory)
    return found[-1] if found else None


def find(path: Path) -> Checkpoint:
    """The checkpoint that a path means: itself, or the newest one of a run directory.

    Raises:
        UsageError: there is no complete checkpoint.
    """
    checkpoint = read(path) or find_latest(path / "checkpoints")
    if checkpoint is None:
        raise UsageError(
            f"{path} is neither a complete checkpoint nor a run directory that holds one. Expected a directory with "
            f"{MANIFEST}, {WEIGHTS} and {STATE} of the sizes in {MANIFEST}, or one with checkpoints/ in it."
        )
    return checkpoint


def _point_latest_to(checkpoint: Path) -> None:
    pointer = checkpoint.with_name(LATEST)
    unfinished = checkpoint.with_name(f".{LATEST}")
    unfinished.write_text(checkpoint.name + "\n")
    _sync(unfinished)
    unfinished.replace(pointer)
    _sync(checkpoint.parent)


def _sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
