"""An index that is killed at each of its file operations: the same command goes on, and makes the same."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from robustness.data_sets import documents, pairs
from trainer.data.index import main as index
from trainer.data.sources.manifest import MANIFEST, load_manifest

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def killed_at(operation: int, shards: list[str], out: Path) -> bool:
    """Index in another process that ends, as at a kill, before its file operation of that number below `out`; returns
    whether it had so many."""
    child = os.fork()
    if child == 0:
        numbers = count()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
                return
            path = os.path.abspath(arguments[0])
            if path.startswith(str(out)) and next(numbers) == operation:
                os._exit(9)

        sys.addaudithook(watch)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os._exit(index([*shards, "--out", str(out)]))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


@pytest.mark.slow
@pytest.mark.parametrize("make", [pairs, documents])
def test_an_index_that_is_killed_anywhere_goes_on(tmp_path, make):
    paths = make(tmp_path, num_samples=3)
    assert index([*paths, "--out", str(tmp_path / "whole")]) == 0
    whole = load_manifest(tmp_path / "whole")
    texts = [whole[number].texts for number in range(len(whole))]
    for operation in count():
        out = tmp_path / f"out-{operation}"
        was_killed = killed_at(operation, paths, out)
        if not was_killed:
            break
        is_complete = (out / MANIFEST).exists()
        assert index([*paths, "--out", str(out)]) == (2 if is_complete else 0)
        manifest = load_manifest(out)
        assert manifest.fingerprint == whole.fingerprint
        assert [manifest[number].texts for number in range(len(manifest))] == texts
        assert not list(out.rglob("*.part"))
    assert operation > 20
