"""Files that are opened without waiting: a pipe or a device in the place of a file would never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

from models.object_storage import StorageError

_MALFORMED = (None, errno.EINVAL, errno.EOVERFLOW)
"""Error numbers of an OSError that speaks of what a file holds (libraries raise such, too)."""


def is_not_given_out(error: Exception) -> bool:
    """Whether an error means that the system or the storage does not give out a file; all others that come while one is
    read speak of what it holds."""
    return isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno not in _MALFORMED)


def open_regular(path: Path) -> IO[bytes]:
    """A file to read. Raises OSError if it cannot be opened, or is a folder, a pipe, a socket or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EACCES, f"It is {kind_of_place(path)}, not a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_size(file: IO[bytes], path: Path, most: int) -> int:
    """The bytes of an opened file. Raises ValueError if it has more than `most`."""
    num_bytes = os.fstat(file.fileno()).st_size
    if num_bytes > most:
        raise ValueError(f"{path} has {num_bytes:,} bytes; the limit is {most:,}.")
    return num_bytes


def kind_of_place(path: Path) -> str:
    """What stands at a path, as words for a message."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "not there"
    except (OSError, ValueError) as error:
        return f"not to be reached ({getattr(error, 'strerror', None) or error})"
    for is_kind, words in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_kind(mode):
            return words
    return "a device"
