"""What a result depends on, as one digest: equal digests mean that making it again would make the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[2]

BLOCK: Final = 2**22
LARGE: Final = 2**26
"""In bytes. Reading so many takes longer than a tick of the clock that files are dated by, so a later change shows."""

OnBytesRead = Callable[[int], None]
"""Told of bytes as they are read."""

_digests: dict[tuple[int, ...], str] = {}
"""Of large files, by where they are and when they were changed."""


def digest_of(parts: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(file: Path, on_bytes_read: OnBytesRead | None = None) -> str:
    """SHA-256 of a file's content; a process reads a large file once, as long as it stays as it is."""
    on_bytes_read = on_bytes_read or (lambda num_bytes: None)
    status = file.stat()
    state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if state in _digests:
        on_bytes_read(status.st_size)
        return _digests[state]
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            on_bytes_read(len(block))
    if status.st_size >= LARGE:
        _digests[state] = digest.hexdigest()
    return digest.hexdigest()


def sources_digest(patterns: Iterable[str]) -> str:
    """SHA-256 of the project's own files that match, e.g. "plugins_trt/*.py", with their names.

    Raises:
        FileNotFoundError: a pattern matches nothing. A file that was moved must not drop out of a key without a word.
    """
    files: set[Path] = set()
    for pattern in patterns:
        matches = {file for file in ROOT.glob(pattern) if file.is_file()}
        if not matches:
            raise FileNotFoundError(f"No source file matches {pattern!r} below {ROOT}; the key would not depend on it.")
        files |= matches
    return digest_of([(file.relative_to(ROOT).as_posix(), file_digest(file)) for file in sorted(files)])
