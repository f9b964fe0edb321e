"""A module of this project as a program that ends with the process that started it, in whatever way that ends:
`python -m export.process.guarded PARENT MODULE ARGUMENT...`; PARENT is that process's number.

This runs before the module's imports, which take seconds; and the system ends it, since Python may be deep in a library
for minutes and would not notice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def main(arguments: Sequence[str]) -> None:
    """Run the module."""
    parent, module, *rest = arguments
    end_with_parent(int(parent))
    os.execv(sys.executable, [sys.executable, "-m", module, *rest])  # who is killed with whom stays


def end_with_parent(parent: int) -> None:
    """Have the system kill this process as soon as that one has ended.

    Raises:
        OSError: the system refuses.
    """
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
