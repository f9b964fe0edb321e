"""A program of this project in a process of its own, with a heartbeat every few seconds.

A builder of engines may end its process by a signal, and its last output says why; concurrent.futures reports
neither, and cannot set the library path of a single process.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from models.directory_lock import held_descriptors

ROOT = Path(__file__).parents[2]
INTERVAL_S = 10.0
NUM_LAST_LINES = 8


class ChildError(RuntimeError):
    """The process failed, or was ended by a signal."""


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    heartbeat: Callable[[float, str], None],
    on_line: Callable[[str], None] | None = None,
    library_folders: Sequence[Path] = (),
    interval_s: float = INTERVAL_S,
) -> None:
    """Run `python -m module` to its end. It ends with this process, in whatever way that ends, and until then it holds
    the locks that this process holds (`models.directory_lock`).

    Args:
        module: which.
        arguments: for it.
        heartbeat: called every `interval_s` with the seconds so far and the last line that the process printed.
        on_line: called with every line that the process prints.
        library_folders: for LD_LIBRARY_PATH, which the loader reads once, when a process starts.
        interval_s: seconds.

    Raises:
        ChildError: a signal ended it, or its status is not 0; with what it wrote last.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    if library_folders:
        paths = [*map(str, library_folders), os.environ.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "export.process.guarded", str(os.getpid()), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        pass_fds=held_descriptors(),
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(child, lines), daemon=True)
    reader.start()
    last: list[str] = []
    last_heartbeat = start
    try:
        while True:
            try:
                line = lines.get(timeout=max(0.0, last_heartbeat + interval_s - time.monotonic()))
            except queue.Empty:
                last_heartbeat = time.monotonic()
                heartbeat(last_heartbeat - start, last[-1] if last else "starting")
                continue
            if line is None:
                break
            last = [*last, line][-NUM_LAST_LINES:]
            if on_line is not None:
                on_line(line)
        status = child.wait()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        reader.join()
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ChildError(f"The process {how}. It wrote last: {' | '.join(last) or 'nothing'}")


def _read(child: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            lines.put(line.rstrip("\n"))
    lines.put(None)
