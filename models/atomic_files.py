"""Files that are complete or not there, however the process ends."""

from __future__ import annotations

import os
from pathlib import Path

UNFINISHED = ".part"
"""Ends the name of a file that is being written."""


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file; text in UTF-8."""
    unfinished = file.with_name(file.name + UNFINISHED)
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(unfinished: Path, file: Path) -> None:
    """Give a file that is written its name."""
    wait_for_disk(unfinished)  # the name must not survive a power cut that the content does not
    os.replace(unfinished, file)


def wait_for_disk(path: Path) -> None:
    """Return when what was written to a file, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
