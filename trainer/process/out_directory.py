"""What `--out` names: made when it is needed, and refused in a sentence when it cannot be used."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from models.atomic_files import UNFINISHED
from models.output_file import check_output_file
from trainer.errors import UsageError

MAX_TOLD = 3


def make_directory(out: Path) -> None:
    """A directory and those above it, where they are not there yet. Raises UsageError if it cannot be one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_a_directory(out, error.strerror) from error


def check_directory(out: Path, own: Collection[str]) -> None:
    """Look, before long work, whether a directory can be made or is one to write into; nothing is written.

    Args:
        out: a directory, or one to make.
        own: names of what it may hold, or patterns of them. Hidden and unfinished files never matter.

    Raises:
        UsageError: it is a file or below one, or holds something else.
    """
    try:
        nearest = next(place for place in (out, *out.parents) if place.exists())
    except OSError as error:
        raise _not_a_directory(out, error.strerror) from error
    if not nearest.is_dir():
        raise _not_a_directory(out, f"{nearest} is a file")
    if nearest != out:
        return
    patterns = (".*", f"*{UNFINISHED}", *own)
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]
    if others:
        more = f" and {len(others) - MAX_TOLD} more" if len(others) > MAX_TOLD else ""
        raise UsageError(
            f"--out is {out}, which holds something else: {', '.join(others[:MAX_TOLD])}{more}. Nothing of it was "
            "touched. Name a new or an empty directory."
        )


def make_room_for(file: Path) -> None:
    """See to it, before long work, that a file can be written: its directory is made. Raises UsageError if not."""
    try:
        check_output_file("--out", file)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _not_a_directory(out: Path, reason: str | None) -> UsageError:
    return UsageError(f"--out is {out}, which cannot be made a directory: {reason}. Name another one.")
