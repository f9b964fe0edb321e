"""Files that cannot be written, told in a sentence: which file, what it needs, and the way out."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.printable import printable


class WriteError(OSError):
    """A file could not be written; its text is a whole sentence."""


@contextmanager
def writing(file: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Everything in the block writes to `file`, so an OSError there says that it could not be written.

    Args:
        file: named in the message.
        num_bytes: how many bytes the file needs, as far as that is known.

    Raises:
        WriteError: in place of any other OSError.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(write_sentence(file, error, num_bytes)) from error


def write_sentence(file: Path, error: OSError, num_bytes: int | None = None) -> str:
    """What a person has to know about a file that could not be written."""
    name = printable(str(file))
    again = "Nothing is left half-written. Make room, and give the same command again: it goes on."
    needs = "" if num_bytes is None else f" It needs {num_bytes:,} bytes."
    if error.errno == errno.ENOSPC:
        return f"There is no room for {name}: its disk has {_free_bytes(file)} bytes free.{needs} {again}"
    if error.errno == errno.EDQUOT:
        return f"There is no room for {name}: your quota of that disk is used up.{needs} {again}"
    if error.errno == errno.EFBIG:
        return f"{name} cannot be written: it is larger than this file system or `ulimit -f` allows."
    return f"{name} cannot be written: {error.strerror or error}."


def _free_bytes(file: Path) -> str:
    place = next((folder for folder in file.parents if folder.is_dir()), Path(os.curdir))
    try:
        return f"{shutil.disk_usage(place).free:,}"
    except OSError:
        return "no"
