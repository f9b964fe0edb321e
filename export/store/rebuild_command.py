"""The command that rebuilds an export or its engines, as error messages print it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.components.profiles import Limits
from export.store.manifest import EngineEntry, Manifest


def rebuild_command(root: Path, manifest: Manifest, **more: Any) -> str:
    """The `python -m export.trt` that makes an export of the same kind with the same components, quoted for a shell.

    Args:
        root: where the export is.
        manifest: what it says of itself.
        more: further options, which come first and replace its own; None: without this one.
    """
    own = {
        "components": ",".join(manifest.components) if manifest.not_exported else None,
        "torch_fallback": ",".join(manifest.left_to_pytorch) or None,
        **asdict(manifest.how),
    }
    words = ["python", "-m", "export.trt", manifest.model_dir, "--out", str(root)]
    for name, value in (more | {name: value for name, value in own.items() if name not in more}).items():
        if value is None or value is False or value == ():
            continue
        values = [] if value is True else value if isinstance(value, tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def how_to_rebuild(root: Path, manifest: Manifest, **more: Any) -> str:
    """A sentence with that command."""
    model_dir = manifest.model_dir
    instead = "" if Path(model_dir).is_dir() else f", with the model's place instead of {model_dir}, which is not here"
    return f"Make it again{instead}: {rebuild_command(root, manifest, **more)}"


def how_to_rebuild_engines(
    root: Path, manifest: Manifest, builder: str, name: str, before: Mapping[str, EngineEntry | None]
) -> str:
    """The same for engines: those of one kind at once, with the limits that they had.

    Args:
        root: where the export is.
        manifest: its manifest.
        builder: whose engines.
        name: of the component whose engine is refused.
        before: by component, this one and others that need an engine: the one that there was; None: there was none.
    """
    alike = {one: entry for one, entry in before.items() if _limits(entry) == _limits(before[name])}
    options: dict[str, Any] = {"stage": "build", "builder": builder}
    if alike.keys() != manifest.components.keys():
        options["components"] = ",".join(alike)
    built = {one: entry for one, entry in alike.items() if entry is not None}
    if built:
        first = min(built.values(), key=lambda entry: entry.plugin_kind is None)  # with plugins, if any has some
        bodies = [one for one, entry in built.items() if entry.mmfs_nodes != "plugins"]
        options["plugin"], options["plugin_library"] = first.plugin_kind, first.plugin_library
        options["function_fallback"] = ",".join(bodies) or None
        options |= asdict(first.limits)
    return how_to_rebuild(root, manifest, **options)


def _limits(entry: EngineEntry | None) -> Limits | None:
    return None if entry is None else entry.limits
