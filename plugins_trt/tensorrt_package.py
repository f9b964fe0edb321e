"""Which TensorRT: the full one, or TensorRT-RTX, whose Python interface is the same. Both are optional."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGES: Final = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Module of each builder."""

EXTRAS: Final = {"tensorrt": "trt", "rtx": "rtx"}
"""Extra of mmfs that installs it."""

RTX_LIBRARY: Final = "libtensorrt_rtx.so"


class MissingPackage(ImportError):
    """A TensorRT that was asked for is not installed."""


def open_package(builder: str) -> ModuleType:
    """The module of a builder, a key of `PACKAGES`.

    Raises:
        MissingPackage: with the extra that installs it.
    """
    if (reason := why_not(builder)) is not None:
        raise MissingPackage(reason)
    try:
        return import_module(PACKAGES[builder])
    except (ImportError, OSError) as error:  # the bindings are installed, but not the library that they load
        raise MissingPackage(
            f"{PACKAGES[builder]} is installed but cannot be loaded ({error}). {_how_to_install(builder)}"
        ) from error


def why_not(builder: str) -> str | None:
    """Why a builder cannot be used, before anything is loaded; None if it may."""
    if find_spec(PACKAGES[builder]) is None:
        return f"{PACKAGES[builder]} is not installed. {_how_to_install(builder)}"
    return None


def _how_to_install(builder: str) -> str:
    return f"Install it with: pip install 'mmfs[{EXTRAS[builder]}]'"


@contextmanager
def library_folders(builder: str) -> Iterator[list[Path]]:
    """Folders that have to be in LD_LIBRARY_PATH of a process before it parses a graph with a plugin.

    The parser of TensorRT-RTX looks for `libtensorrt_rtx.so`, and its wheel holds `libtensorrt_rtx.so.1`: without the
    link made here, the first plugin ends the process. If the wheel holds both, no link is needed.
    """
    spec = find_spec("tensorrt_rtx_libs") if builder == "rtx" else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    libraries = sorted(library for folder in folders for library in folder.glob(f"{RTX_LIBRARY}.*"))
    if not libraries or any((folder / RTX_LIBRARY).exists() for folder in folders):
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="mmfs-rtx-") as links:
        (Path(links) / RTX_LIBRARY).symlink_to(libraries[0])
        yield [Path(links)]
