"""Files that are either complete or missing, however the process ends."""

from __future__ import annotations

import os
from pathlib import Path

from models.write_errors import writing

UNFINISHED = ".part"
"""Suffix of a file that is still being written."""


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file; text in UTF-8.

    Raises:
        WriteError: it cannot be written; what was there before is still there.
    """
    unfinished = file.with_name(file.name + UNFINISHED)
    data = content.encode() if isinstance(content, str) else content
    with writing(file, len(data)):
        try:
            unfinished.write_bytes(data)
            put_in_place(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)


def put_in_place(unfinished: Path, file: Path) -> None:
    """Rename a file that is completely written to its final name."""
    wait_for_disk(unfinished)  # after a power cut there must be no name without its content
    os.replace(unfinished, file)


def wait_for_disk(path: Path) -> None:
    """Return when what was written to a file, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
