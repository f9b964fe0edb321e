"""Whether another process holds a directory, and waiting until it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from models.directory_lock import DirectoryInUse, directory_lock


def is_held(directory: Path) -> bool:
    try:
        with directory_lock(directory):
            return False
    except DirectoryInUse:
        return True


def wait_for(holds: Callable[[], bool], patience_s: float = 60) -> None:
    """A process that ends closes its files one after the other."""
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
