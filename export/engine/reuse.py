"""The files of engines: which belong to what a manifest lists, and which stay when graphs have changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from export.store.manifest import ENGINES_DIR, Manifest
from models.write_errors import writing

KINDS = ("plan", "build.log", "layers.json")
"""Ends of the names of an engine's files."""


def stale_files(root: Path, manifest: Manifest) -> list[Path]:
    """Files of engines below `root` that a manifest does not list: it is unknown which graph they were built from.

    The log of a failed build is listed; files that belong to no engine, such as the timing cache, are not stale.
    """
    stale = []
    for file in sorted((root / ENGINES_DIR).glob("*/*")):
        name, _, kind = file.name.partition(".")
        component = manifest.components.get(name)
        engine = None if component is None else component.engines.get(file.parent.name)
        status = None if engine is None else engine.status
        is_listed = status == "built" or (status == "failed" and kind == "build.log")
        if kind in KINDS and not is_listed:
            stale.append(file)
    return stale


def drop_stale(root: Path, manifest: Manifest) -> None:
    """Remove them; the manifest is written first, so that it never lists missing files."""
    for file in stale_files(root, manifest):
        file.unlink()


def carry_engines(earlier_root: Path, earlier: Manifest, root: Path, manifest: Manifest) -> None:
    """Take over the engines of an earlier export whose graphs are the same; the earlier export is not changed.

    Args:
        earlier_root: the earlier export.
        earlier: its manifest.
        root: the new export, without engines.
        manifest: which gets the entries.
    """
    for name, component in manifest.components.items():
        before = earlier.components.get(name)
        if before is not None and before.onnx == component.onnx:
            component.engines.update(before.engines)
    stale = stale_files(earlier_root, manifest)
    for file in (earlier_root / ENGINES_DIR).glob("*/*"):
        if file.is_dir() or file in stale:
            continue
        target = root / file.relative_to(earlier_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:  # a file system without hard links
            with writing(target, file.stat().st_size):
                shutil.copy2(file, target)
