"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def directory_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the system lets go of it when this one ends, however it ends.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another process holds it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no directory {folder}. Expected what python -m export.trt writes.")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"Another process is writing into {folder}. Wait for it, or name another --out.") from None
    try:
        yield
    finally:
        os.close(descriptor)
