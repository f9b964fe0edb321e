"""The file that a command is to write: looked at before the work, not after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from models.atomic_files import UNFINISHED


def check_output_file(option: str, file: Path) -> None:
    """See to it that a file can be written: its directory is made.

    Args:
        option: that names it, for the message.
        file: perhaps there already.

    Raises:
        ValueError: it is a directory, or nothing can be written where it is to be.
    """
    try:
        if file.is_dir():
            raise ValueError(f"{option} is {file}, which is a directory; expected a file to write.")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            file.with_name(file.name + UNFINISHED).exists()  # which fails where the name is too long
    except OSError as error:
        raise ValueError(f"{option} is {file}, which cannot be written: {error.strerror}. Name another one.") from error
