"""`python -m export.serve` as a process of its own: to be killed, stopped, put behind a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from live_server import Address

ROOT = Path(__file__).parents[1]
TOY = ROOT / "trainer/weights/toy"


@dataclass(frozen=True)
class ServerProcess(Address):
    process: subprocess.Popen[str]
    log_file: IO[str]

    def log(self) -> str:
        """What it has written to standard error."""
        return Path(self.log_file.name).read_text()


@contextmanager
def served(*options: str) -> Iterator[ServerProcess]:
    """A server of the toy model, once it answers; killed at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "export.serve", str(TOY), "--port", "0", *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[0].rpartition(":")[2])
            server = ServerProcess(port, process, log)
            early = server.ask("GET", "/health")  # it listens before it has a model
            assert early.status == 503
            assert b"is being loaded" in early.body
            assert "is ready" in process.stdout.readline()
            yield server
        finally:
            process.kill()
            process.communicate()
