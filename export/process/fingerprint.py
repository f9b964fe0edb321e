"""One digest of everything that a result depends on: if it is equal, the result would be the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from models.digests import OnBytesRead, file_sha256

LARGE: Final = 2**26
"""Bytes. Reading so many takes longer than a tick of the clock of file times, so a later change has another time."""

_digests: dict[tuple[int, ...], str] = {}
"""Digests of large files, by their path and time of change."""


def digest_of(parts: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(file: Path, on_bytes_read: OnBytesRead | None = None) -> str:
    """SHA-256 of a file's content; a process reads a large file only once, unless it changes."""
    status = file.stat()
    state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if state in _digests:
        if on_bytes_read is not None:
            on_bytes_read(status.st_size)
        return _digests[state]
    digest = file_sha256(file, on_bytes_read)
    if status.st_size >= LARGE:
        _digests[state] = digest
    return digest
