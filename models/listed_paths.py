"""Names in a list of files that comes from somebody else."""

from __future__ import annotations

from pathlib import PurePosixPath


def is_below(name: str) -> bool:
    """Whether a listed name is that of something below the directory of the list."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\0" in name)
