"""Peak memory of a call, and the error of a result."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def peak_memory_bytes(run: Callable[[], object], device: str) -> int | None:
    """The most memory that run() holds at once, above what was held before.

    On a GPU: PyTorch's allocator. On a CPU: resident memory of the process, whose high-water mark Linux can reset; it
    sees compiled kernels too, but not pages that an earlier call left to the allocator. None where that mark cannot be
    reset.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        run()
        return None
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except PermissionError:  # some containers forbid it
        run()
        return None
    before = resident_bytes("VmRSS")
    run()
    return max(0, resident_bytes("VmHWM") - before)


def resident_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has no {name}"
    return 1024 * int(found[1])


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm of the exact result."""
    exact = exact.double()
    return float((actual.double().to(exact.device) - exact).norm() / exact.norm().clamp(min=1e-300))


def worst_error(actual: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest relative error of several results; NaN counts as infinite."""
    errors = torch.tensor([relative_error(a, e) for a, e in zip(actual, exact, strict=True)])
    return float(errors.nan_to_num(nan=torch.inf).max())
