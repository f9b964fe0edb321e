"""What a result depends on, as one digest: equal digests mean that making it again would make the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def digest_of(parts: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sources_digest(patterns: Iterable[str]) -> str:
    """SHA-256 of the project's own files that match, e.g. "plugins_trt/*.py", with their names."""
    files = sorted({file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()})
    return digest_of([(file.relative_to(ROOT).as_posix(), file_digest(file)) for file in files])
