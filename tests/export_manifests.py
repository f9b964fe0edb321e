"""Manifests of exports that were never made, with as much in them as a test looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.components.profiles import Limits
from export.store.manifest import (
    BuilderEntry,
    ComponentEntry,
    EngineEntry,
    FileEntry,
    GraphEntry,
    How,
    Inspection,
    MachineCode,
    Manifest,
    NoEngine,
    Outcome,
    Requirements,
    Tool,
    ValidationEntry,
)

FILE = FileEntry("file", 4, "ab" * 32)
HOW = How("float32", "same", "trt_split", None, None, ())


def a_manifest(components: Mapping[str, ComponentEntry], **fields: Any) -> Manifest:
    """Of an export of these components."""
    usual: dict[str, Any] = {
        "key": "",
        "tool": Tool("export.trt", "0"),
        "how": HOW,
        "versions": {},
        "model_dir": "/no/such/model",
        "model": {},
        "samples": "none",
        "left_to_pytorch": (),
        "not_exported": (),
        "assets": (),
        "generation": Outcome("not run", "a test"),
    }
    return Manifest(components=dict(components), **{**usual, **fields})


def a_component(**fields: Any) -> ComponentEntry:
    """Without ports, nodes and engines."""
    usual: dict[str, Any] = {
        "onnx": GraphEntry(FILE, (), 18, 1),
        "inputs": (),
        "outputs": (),
        "aliases": {},
        "num_nodes": 1,
        "num_mmfs_nodes": {},
        "validation": ValidationEntry("none", 1e-4, 0.0, ()),
        "engines": {},
    }
    return ComponentEntry(**{**usual, **fields})


def an_engine(**fields: Any) -> EngineEntry:
    """With plugins in Python, never executed."""
    usual: dict[str, Any] = {
        "key": "",
        "plan": FILE,
        "builder": BuilderEntry("tensorrt_rtx", "1.7"),
        "built_on": "Linux x86_64",
        "seconds": 1.5,
        "limits": Limits(),
        "profiles": (),
        "memory_bytes": {},
        "num_layers_parsed": 1,
        "num_plugins": {},
        "mmfs_nodes": "plugins",
        "plugin_kind": "python",
        "plugin_library": None,
        "machine_code": MachineCode((), ()),
        "requires": Requirements("Linux x86_64", None, (), None, None, None),
        "inspector": Inspection("not run", "no GPU"),
        "executed": Outcome("not run", "no GPU"),
        "verified": Outcome("not run", "it was not executed"),
    }
    return EngineEntry(**{**usual, **fields})


def no_engine(status: Any = "failed", reason: str = "No memory.") -> NoEngine:
    """Why there is none."""
    return NoEngine(status, reason)
