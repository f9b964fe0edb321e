"""Which NVIDIA driver a compiled kernel needs: machine code asks for less than PTX, which the driver translates."""

from __future__ import annotations

import re
from pathlib import Path

Cuda = tuple[int, int]
"""Major and minor version."""

DRIVER_FILE = Path("/proc/driver/nvidia/version")

MACHINE_CODE_BRANCHES = {12: 525, 13: 580}
"""By major version of CUDA: the first driver branch that loads its machine code, whatever the minor version (CUDA
Compatibility, "Minor Version Compatibility", table 1)."""

PTX_BRANCHES: dict[Cuda, int] = {
    (12, 0): 525,
    (12, 1): 530,
    (12, 2): 535,
    (12, 3): 545,
    (12, 4): 550,
    (12, 5): 555,
    (12, 6): 560,
    (12, 7): 565,
    (12, 8): 570,
    (12, 9): 575,
    (13, 0): 580,
    (13, 1): 590,
    (13, 2): 595,
    (13, 3): 610,
    (13, 4): 615,
}
"""By version of CUDA: the driver branch that came with it, the first to read its PTX (Parallel Thread Execution ISA,
"Release Notes", table "PTX Release History")."""


def least_for_machine_code(cuda: Cuda) -> int:
    """The first driver branch that loads machine code of a compiler."""
    return MACHINE_CODE_BRANCHES[cuda[0]]


def least_for_ptx(cuda: Cuda) -> int:
    """The first driver branch that reads PTX of a compiler; of one newer than the table, that of its last entry."""
    return max(branch for known, branch in PTX_BRANCHES.items() if known[0] == cuda[0] and known <= cuda)


def newest_ptx(branch: int) -> Cuda | None:
    """The newest CUDA whose PTX a driver branch reads, as far as the table goes; None: none."""
    return max((cuda for cuda, first in PTX_BRANCHES.items() if first <= branch), default=None)


def driver_branch(file: Path) -> int | None:
    """Of the NVIDIA driver that describes itself in `file`; None if there is no such file."""
    if not file.is_file():
        return None
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d+", file.read_text())
    return int(found[1]) if found else None
