"""The files of engines: which belong to what a manifest lists, and which stay when graphs have changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.store.manifest import ENGINES_DIR

KINDS = ("plan", "build.log", "layers.json")
"""Ends of the names of an engine's files."""


def stale_files(root: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files of engines below `root` that a manifest does not list: nobody knows any more of which graph they are.

    The log of a build that failed is listed, and what belongs to no engine, as the timing cache, is not stale.
    """
    stale = []
    for file in sorted((root / ENGINES_DIR).glob("*/*")):
        name, _, kind = file.name.partition(".")
        engines = manifest["components"].get(name, {"engines": {}})["engines"]
        status = engines.get(file.parent.name, {"status": "unknown"})["status"]
        is_listed = status == "built" or (status == "failed" and kind == "build.log")
        if kind in KINDS and not is_listed:
            stale.append(file)
    return stale


def drop_stale(root: Path, manifest: Mapping[str, Any]) -> None:
    """Remove them; the manifest is written before, so that it never lists what is gone."""
    for file in stale_files(root, manifest):
        file.unlink()


def carry_engines(earlier_root: Path, earlier: Mapping[str, Any], root: Path, manifest: dict[str, Any]) -> None:
    """Take over the engines of an earlier export whose graphs are the same, and leave it as it is.

    Args:
        earlier_root: the earlier export.
        earlier: its manifest.
        root: the new export, without engines.
        manifest: which gets the entries.
    """
    for name, component in manifest["components"].items():
        before = earlier["components"].get(name)
        if before is not None and before["onnx"] == component["onnx"]:
            component["engines"] = before["engines"]
    stale = stale_files(earlier_root, manifest)
    for file in (earlier_root / ENGINES_DIR).glob("*/*"):
        if file.is_dir() or file in stale:
            continue
        target = root / file.relative_to(earlier_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:  # a file system without hard links
            shutil.copy2(file, target)
