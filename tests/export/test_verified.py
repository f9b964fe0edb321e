import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from export.store.manifest import Outcome, read_manifest, write_manifest
from export.verified import main, record_run, verified_where
from export_manifests import an_engine, no_engine


def test_the_table_says_what_was_done_and_why_not(exported: Path) -> None:
    manifest = read_manifest(exported)
    manifest.components["llm"].engines["rtx-1.7"] = an_engine()
    manifest.components["unet_mmfs"].engines["rtx-1.7"] = no_engine("failed", "no memory")
    rows = verified_where(manifest).splitlines()
    assert "| llm | ONNX | yes | onnxruntime, CPU | pass |" in rows
    assert "| llm | rtx-1.7 | yes, on Linux x86_64 | not run (1) | not run (2) |" in rows
    assert "| unet_mmfs | rtx-1.7 | failed (3) | – | – |" in rows
    assert rows[-3:] == ["(1) no GPU", "(2) it was not executed", "(3) no memory"]


def test_a_part_of_a_model_was_not_tried_as_a_whole(exported: Path) -> None:
    manifest = replace(read_manifest(exported), generation=Outcome("not run", "llm were not exported"))
    rows = verified_where(manifest).splitlines()
    assert rows[-3:] == ["| all together | ONNX | – | – | not run (1) |", "", "(1) llm were not exported"]


def test_what_ran_is_entered(exported: Path, tmp_path: Path) -> None:
    root = tmp_path / "exported"
    shutil.copytree(exported, root)
    manifest = read_manifest(root)
    for name in ("llm", "vae_decoder"):
        manifest.components[name].engines["rtx-1.7"] = an_engine()
    write_manifest(root, manifest)
    assert "engines built and never executed: llm, vae_decoder" in read_manifest(root).not_done
    record_run(root, "rtx-1.7", ["llm"], "a GPU", None)
    record_run(root, "rtx-1.7", ["vae_decoder"], "a GPU", "PyTorch writes ['a']")
    rows = verified_where(read_manifest(root)).splitlines()
    assert "| llm | rtx-1.7 | yes, on Linux x86_64 | yes, on a GPU | pass |" in rows
    assert "| vae_decoder | rtx-1.7 | yes, on Linux x86_64 | yes, on a GPU | fail (1) |" in rows
    assert not any("never executed" in sentence for sentence in read_manifest(root).not_done)


def test_the_command_prints_it(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported)]) == 0
    assert capsys.readouterr().out.startswith("| component | what |")
    assert main([str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    root = tmp_path / "exported"
    shutil.copytree(exported, root)
    write_manifest(root, replace(read_manifest(root), schema=1))
    assert main([str(root)]) == 2
    assert "has schema 1; this program reads" in capsys.readouterr().err
