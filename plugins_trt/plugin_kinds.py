"""The kinds of plugin by which the mmfs nodes get into a plan, behind one interface for the builder of engines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from plugins_trt.aot import AotPlugins
from plugins_trt.machine_code import PTX_ARCHITECTURE
from plugins_trt.node_contract import NAMESPACE
from plugins_trt.plugin import Plugins


class PluginKind(Protocol):
    """Plugins that are registered with a builder."""

    network_flags: int
    """For `create_network`."""

    def configure(self, config: Any) -> None:
        """Set what these plugins need in a builder's configuration."""

    def num_in_plan(self) -> Mapping[str, int] | None:
        """Plugins that were written into the plan, by node type; None: unknown."""

    def sha256(self) -> list[str]:
        """Digest of each set of kernels in the plan."""


def check_plugin_kind(name: str, builder: str, library: Path | None) -> None:
    """Raise ValueError unless a builder takes this kind of plugin.

    Args:
        name: one of `PLUGIN_KINDS`.
        builder: a key of `tensorrt_package.PACKAGES`.
        library: the file of the C++ plugin, for the kind "library".
    """
    if name == "aot" and builder == "rtx":
        raise ValueError("TensorRT-RTX has no ahead-of-time plugins. Take --plugin python, or --builder tensorrt.")
    if (name == "library") != (library is not None):
        raise ValueError("--plugin library and --plugin-library FILE belong together: name both, or neither.")
    if library is not None:
        architectures_in(library)


def open_plugin_kind(
    name: str, trt: ModuleType, architectures: Sequence[str], library: Path | None = None
) -> PluginKind:
    """Register the mmfs plugins with a TensorRT.

    Args:
        name: one of `PLUGIN_KINDS`.
        trt: from `tensorrt_package.open_package`.
        architectures: for which "python" compiles kernels.
        library: the file of "library".

    Raises:
        RuntimeError: this TensorRT has no such plugins, or refuses them.
    """
    if name == "aot":
        return AotPlugins(trt)
    if name == "python":
        return Plugins(trt, architectures)
    assert library is not None, "check_plugin_kind was asked before"
    return LibraryPlugins(trt, library)


def architectures_of(name: str, architectures: Sequence[str], library: Path | None) -> list[str]:
    """For which a plan holds kernels."""
    if name == "aot":
        return [PTX_ARCHITECTURE]
    return list(architectures) if library is None else architectures_in(library)


def architectures_in(library: Path) -> list[str]:
    """For which the compiled C++ plugin holds kernels: their names are in it as text.

    Raises:
        ValueError: it is no such library.
    """
    names = set(re.findall(rb"mmfs_\w+@((?:sm|compute)_\d+)\0", library.read_bytes()))
    if not names:
        raise ValueError(f"{library} holds no kernels of mmfs. Expected what CMake builds of plugins_trt/csrc.")
    return sorted(name.decode() for name in names)


class LibraryPlugins:
    """The compiled C++ plugin, loaded into a TensorRT and written into the plans that it builds.

    Raises:
        RuntimeError: TensorRT does not load it.
    """

    network_flags = 0

    def __init__(self, trt: ModuleType, library: Path) -> None:
        self._library = library
        if trt.get_plugin_registry().load_library(str(library)) is None:
            raise RuntimeError(
                f"TensorRT {trt.__version__} does not load {library}. Expected a library that was built for it, and no "
                f"other plugins of {NAMESPACE} besides."
            )

    def configure(self, config: Any) -> None:
        """Put the library into the plan."""
        config.plugins_to_serialize = [str(self._library)]

    def num_in_plan(self) -> None:
        """Unknown: TensorRT does not report it."""

    def sha256(self) -> list[str]:
        """Of the library."""
        return [hashlib.sha256(self._library.read_bytes()).hexdigest()]
