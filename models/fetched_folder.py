"""Folders of this machine's cache that are fetched once, whoever of its processes asks."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


def fetched_once(folder: Path, fetch: Callable[[Path], None]) -> Path:
    """A folder that is there as a whole or not at all, however processes end.

    Args:
        folder: its name is another one for another content.
        fetch: fills a new, empty folder; its errors are passed on, and nothing is kept then.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = folder.parent / f".{folder.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            fetch(unfinished)
            unfinished.rename(folder)
    return folder
