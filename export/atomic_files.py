"""Files that are there as a whole or not at all, however the process ends."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".part"
"""Ends the name of a file that is being written, beside the one that it will be."""


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file aside, and let it take the place of an earlier one when it is on the disk; text as UTF-8."""
    partial = file.with_name(file.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())  # without it, a power cut can leave the new name with nothing in it
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
