"""Replaces an earlier export by a finished one, with two renames; until then the earlier one is complete."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from export.engine.reuse import carry_engines
from export.store.job import JOB_FILE
from export.store.manifest import ENGINES_DIR, MANIFEST_FILE, ONNX_DIR, manifest_of, read_manifest, write_manifest
from export.validate.validate import ROUNDED_DIR
from models.atomic_files import UNFINISHED
from models.directory_lock import directory_lock


def replace_export(work: Path, out: Path) -> None:
    """Replace an earlier export by the finished one; engines of graphs that did not change are kept.

    Args:
        work: what the stages wrote.
        out: where it goes; it need not exist.

    Raises:
        ValueError: another process works on `out`.
    """
    restore_export(out)
    for leftover in (work / ROUNDED_DIR, work / ENGINES_DIR, _aside(out)):
        shutil.rmtree(leftover, ignore_errors=True)
    (work / JOB_FILE).unlink()
    with directory_lock(out) if out.exists() else nullcontext():
        if (earlier := manifest_of(out)) is not None:
            manifest = read_manifest(work)
            carry_engines(out, earlier, work, manifest)
            write_manifest(work, manifest)
        for file in (*(work / ONNX_DIR).glob("*.key"), *work.rglob(f"*{UNFINISHED}")):
            file.unlink()
        if out.exists():
            out.rename(_aside(out))
        work.rename(out)
    shutil.rmtree(_aside(out), ignore_errors=True)


def restore_export(out: Path) -> None:
    """After a killed command: restore the export that it had moved aside, or remove it if the new one is in place.

    Raises:
        ValueError: the command is still running.
    """
    if out.exists():
        shutil.rmtree(_aside(out), ignore_errors=True)
    elif (_aside(out) / MANIFEST_FILE).is_file():
        with directory_lock(_aside(out)):
            _aside(out).rename(out)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")
