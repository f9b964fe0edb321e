"""Commands in a process of their own that is killed before one of its file operations, or in the middle of a write."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import processes

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.copyfile")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def outcome(
    command: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    said: Path,
    *,
    watched: Path | None = None,
    operation: int | None = None,
    max_file_bytes: int | None = None,
) -> int:
    """Exit code of a command's main function, a negative one if a signal ended it.

    Args:
        command: it.
        arguments: for it.
        said: a file for what it prints.
        watched: the directory whose file operations count.
        operation: it is killed before the operation of that number, if it comes so far.
        max_file_bytes: it is killed when a file becomes larger, with so many bytes written.
    """
    return processes.run(_run, 1, command, list(arguments), said, watched, operation, max_file_bytes)[0]


def _run(
    command: Callable[[Sequence[str]], int],
    arguments: list[str],
    said: Path,
    watched: Path | None,
    operation: int | None,
    max_file_bytes: int | None,
) -> int:
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    if max_file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    if watched is not None and operation is not None:
        sys.addaudithook(_kill_before(operation, watched))
    try:
        return command(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _kill_before(operation: int, watched: Path) -> Callable[[str, tuple[Any, ...]], None]:
    numbers = count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
        elif event not in OPERATIONS:
            return
        names = [name for name in arguments[:2] if isinstance(name, str | os.PathLike)]
        # shutil.rmtree and the lock name files below an open directory: their names are relative.
        is_below = any(not os.path.isabs(name) or Path(name).is_relative_to(watched) for name in names)
        if is_below and next(numbers) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch
