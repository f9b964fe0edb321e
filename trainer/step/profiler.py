"""Traces of a few steps: which operation took how long, and on a GPU who holds its memory."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.run_files import PROFILE
from trainer.system_config import ProfileConfig


class StepProfiler:
    """Records the steps that the settings name, in the processes that they name.

    Leaves in RUN/profile, for steps 10 to 12 of the phase `main` in process 0: `main-10-12-rank0.json.gz` for Perfetto
    (ui.perfetto.dev), `.txt` with the operations by their time, and on a GPU `.pickle` for
    pytorch.org/memory_viz: every allocation, with the line of the program that made it.

    Args:
        settings: which steps.
        out: the run directory.
        phase: its name.
        rank: of this process.
        device: on which it computes.
    """

    def __init__(self, settings: ProfileConfig, out: Path, phase: str, rank: int, device: torch.device) -> None:
        last = settings.first_step + settings.num_steps - 1
        self._steps = range(settings.first_step, last + 1) if rank in settings.ranks else range(0)
        self._file = out / PROFILE / f"{phase}-{settings.first_step}-{last}-rank{rank}"
        self._on_gpu = device.type == "cuda"
        self._profile: torch.profiler.profile | None = None

    def begins(self, step: int) -> None:
        """A step of the phase begins, counted from 1."""
        if self._profile is not None or step not in self._steps:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history()
        self._profile = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True)
        self._profile.start()

    def ends(self, step: int, *, is_last: bool) -> bool:
        """A step of the phase has ended, and with `is_last` all have; returns whether something was written."""
        if self._profile is None or (step + 1 in self._steps and not is_last):
            return False
        profile, self._profile = self._profile, None
        profile.stop()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._on_gpu:
            torch.cuda.memory._dump_snapshot(f"{self._file}.pickle")
            torch.cuda.memory._record_memory_history(enabled=None)
        profile.export_chrome_trace(f"{self._file}.json.gz")
        by = "self_cuda_time_total" if self._on_gpu else "self_cpu_time_total"
        Path(f"{self._file}.txt").write_text(profile.key_averages().table(sort_by=by, row_limit=100))
        return True

    def files(self) -> list[Path]:
        """What was written; the trace is the first of them."""
        return sorted(self._file.parent.glob(f"{self._file.name}.*"))
