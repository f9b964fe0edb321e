"""What each process was doing when a run hung: its stacks, and its last collective operations."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

from torch._C import _distributed_c10d as c10d

NUM_OPERATIONS = 2000
PREFIX = "nccl_trace_rank_"
"""Of the recorder's files, before the rank: what `torchfrtrace` looks for."""

RECORDERS = ("_dump_nccl_trace", "_dump_fr_trace")
"""PyTorch's functions that give out what its recorders hold: that of NCCL, where it was built with it, or of gloo."""


def record_collectives(directory: Path | None) -> None:
    """Switch PyTorch's flight recorder on, before there is a process group: it remembers the last collective
    operations, which of them are done, and where in the program they were asked for. Variables that are set stay.

    Args:
        directory: where NCCL itself writes, should its own watchdog be the first; None: PyTorch's choice.
    """
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(NUM_OPERATIONS))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    if directory is not None:
        os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(directory / PREFIX))


def leave_traces(directory: Path, rank: int) -> tuple[Path, Path]:
    """Write `stacks_rank_RANK.txt` with the stacks of all threads, and `nccl_trace_rank_RANK` for
    `torchfrtrace DIRECTORY`, which compares those of all ranks. Returns both files."""
    directory.mkdir(parents=True, exist_ok=True)
    stacks, operations = directory / f"stacks_rank_{rank}.txt", directory / f"{PREFIX}{rank}"
    with stacks.open("w") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    dump = next(getattr(c10d, name) for name in RECORDERS if hasattr(c10d, name))
    operations.write_bytes(dump())
    return stacks, operations
