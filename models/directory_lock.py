"""One process at a time in a directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = ".lock"
"""The file that is locked, because network file systems cannot lock directories; it exists while the lock is held."""


class DirectoryInUse(ValueError):
    """Another process, or another place in this one, holds the directory."""


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Lock a directory against all others, also while it is renamed. The system releases the lock when this process
    ends, in whatever way; processes forked meanwhile, which may live longer, do not hold it.

    A program that is started meanwhile shares the lock if it gets `held_descriptors()`.

    Raises:
        FileNotFoundError: there is no such directory.
        DirectoryInUse: it is locked already.
        ValueError: it cannot be locked.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no directory {directory}.")
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = _open(directory, place)
        _held.add(file)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryInUse(
                    f"Another process is writing into {directory}. Wait for it, or name another directory."
                ) from None
            if os.fstat(file).st_nlink == 0:  # its holder let go between our opening the file and locking it
                raise DirectoryInUse(f"Another process was writing into {directory} until now. Try again.")
            try:
                yield
            finally:
                with suppress(FileNotFoundError):  # the directory may be gone
                    os.unlink(LOCK_FILE, dir_fd=place)
        finally:
            _held.discard(file)
            os.close(file)
    finally:
        os.close(place)


def held_descriptors() -> tuple[int, ...]:
    """The open files of all locks of this process, to be inherited (`subprocess.Popen(pass_fds=...)`) by a program that
    writes into the locked directories: they stay locked until that has ended too, even if this process is killed."""
    return tuple(_held)


def _open(directory: Path, place: int) -> int:
    try:
        return os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666, dir_fd=place)
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be written into, for its {LOCK_FILE} cannot be opened: {error.strerror}. Expected a "
            "file, or nothing, of this name, in a directory that may be written."
        ) from error


_held: set[int] = set()
"""Descriptors of the locks of this process."""


def _let_go() -> None:
    """A lock belongs to all processes that have its file open; a forked one shall not be among them."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
