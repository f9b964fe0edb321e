"""Compiled kernels on disk, so that a process compiles only what no process before it has compiled.

The folder is mmfs below XDG_CACHE_HOME or ~/.cache. A file is written under another name and then renamed: processes
that compile the same at once do not disturb each other. Without a writable folder every process compiles for itself,
and warns once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path


def cache_folder() -> Path:
    """Where all of the project keeps what can be made or fetched again; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mmfs"


def cache_key(source: str, options: Sequence[str], version: tuple[int, int]) -> str:
    """Of a compilation: its source, its options (the architecture is one) and the compiler's version."""
    parts = [source, *options, *map(str, version)]
    # Lengths tell ("ab", "c") from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def cached_binary(key: str, compile_binary: Callable[[], bytes]) -> bytes:
    """The binary of this key, read from disk, or compiled and kept."""
    path = cache_folder() / f"{key}.cubin"
    try:
        binary = path.read_bytes()
    except OSError:
        binary = b""
    if binary.startswith(b"\x7fELF"):  # anything else was not written completely, for example because the disk was full
        return binary
    binary = compile_binary()
    try:
        _write(path, binary)
    except OSError as error:
        _warn_once(str(path.parent), str(error))
    return binary


def _write(path: Path, binary: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(binary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@cache
def _warn_once(folder: str, reason: str) -> None:
    warnings.warn(
        f"mmfs cannot keep compiled kernels in {folder} ({reason}): every process compiles them again. Set "
        "XDG_CACHE_HOME to a folder that can be written.",
        stacklevel=2,
    )
