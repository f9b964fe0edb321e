"""Files that are written aside first."""

from __future__ import annotations

from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """A file that is there as a whole or not at all."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)
