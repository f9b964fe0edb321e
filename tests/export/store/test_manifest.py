import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mmfs.onnxruntime
from export.components.component import Component, Tolerances
from export.store.job import NEUTRAL_DIR
from export.store.manifest import SCHEMA, read_manifest, write_manifest
from export_manifests import a_component, a_manifest, an_engine, no_engine


@pytest.fixture
def manifest(exported: Path) -> dict:
    return json.loads((exported / "manifest.json").read_text(encoding="utf-8"))


def test_every_file_is_listed_with_its_digest(exported: Path, model_dir: Path, manifest: dict) -> None:
    graphs = [component["onnx"] for component in manifest["components"].values()]
    entries = [*(file for graph in graphs for file in (graph["file"], *graph["weights"])), *manifest["assets"]]
    assert {entry["path"] for entry in entries} == {
        path.relative_to(exported).as_posix()
        for path in exported.rglob("*")
        if path.is_file() and path.name != "manifest.json" and path.parent.name != NEUTRAL_DIR
    }
    assert set(manifest["model"]) == {"config.json", "model.safetensors"}
    for root, listed in ((exported, entries), (model_dir, manifest["model"].values())):
        for entry in listed:
            content = (root / entry["path"]).read_bytes()
            assert entry["bytes"] == len(content)
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_components_are_described_and_validated(manifest: dict, components: dict[str, Component]) -> None:
    assert list(manifest["components"]) == list(components)
    for name, entry in manifest["components"].items():
        for direction, ports in (("inputs", components[name].inputs), ("outputs", components[name].outputs)):
            assert [port["name"] for port in entry[direction]] == list(ports)
            assert [tuple(port["shape"]) for port in entry[direction]] == [port.shape for port in ports.values()]
            assert {port["dtype"] for port in entry[direction]} <= {"float32", "int64"}
        validation = entry["validation"]
        assert validation["status"] == "pass"
        assert 0 <= validation["max_relative_error"] <= validation["tolerance"] == Tolerances().relative_error
        assert len(validation["cases"]) >= 2
        assert all(set(case["relative_errors"]) == set(components[name].outputs) for case in validation["cases"])
        assert entry["engines"] == entry["aliases"] == {}
        if not entry["num_mmfs_nodes"]:
            assert validation["custom_operators"] is None
        elif (reason := mmfs.onnxruntime.why_not()) is not None:
            assert validation["custom_operators"] == {"status": "not run", "reason": reason, "max_relative_error": None}
        else:
            assert validation["custom_operators"]["status"] == "pass"
            assert 0 < validation["custom_operators"]["max_relative_error"] <= validation["tolerance"]
    assert manifest["components"]["llm"]["num_mmfs_nodes"] == {"MMFS": 2}


def test_it_says_what_was_used_and_what_was_not_done(manifest: dict, model_dir: Path) -> None:
    assert manifest["schema"] == SCHEMA == 8
    expected = {"precision": "float32", "llm_weights": "same", "kv_cache": "trt_split", "sampling_locations": False}
    assert manifest["how"] == {**expected, "max_past": None, "few_layers": None, "images": []}
    assert manifest["model_dir"] == str(model_dir)
    assert manifest["left_to_pytorch"] == manifest["not_exported"] == []
    assert manifest["not_done"] == [f"no engine: {', '.join(manifest['components'])}"]
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["samples"] == "the first 3 documents of samples/samples.json beside the model"
    assert manifest["generation"]["status"] == "pass"
    assert manifest["generation"]["num_images"] == len(manifest["generation"]["texts"]) == 3


def test_what_was_written_is_read(tmp_path: Path) -> None:
    engines = {"rtx-1.7": an_engine(), "rtx-1.8": no_engine("failed", "no memory")}
    written = a_manifest({"llm": a_component(engines=engines)}, not_exported=("unet",))
    write_manifest(tmp_path, written)
    read = read_manifest(tmp_path)
    assert replace(read, not_done=()) == written
    assert read.not_done == ("not exported: unet", "engines built and never executed: llm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("samples"), r"samples: Field required"),
        (lambda one: one.update(more=1), r"more: Unexpected"),
        (lambda one: one.update(key=5), r"key: Input should be a valid string"),
        (lambda one: one["components"]["llm"].update(num_nodes="7"), r"components\.llm\.num_nodes: Input should be a"),
        (lambda one: one["components"]["llm"]["onnx"]["file"].update(at=0), r"components\.llm\.onnx\.file\.at: Unexp"),
        (lambda one: one["components"]["llm"]["onnx"]["file"].update(path="../x"), r".*'\.\./x' is not below the dir"),
        (
            lambda one: one["components"]["llm"]["onnx"]["file"].update(path="/etc/passwd"),
            r".*passwd' is not below the",
        ),
        (
            lambda one: one["components"]["llm"].update(inputs=[{"name": "a", "dtype": "load"}]),
            r".*dtype: Input should",
        ),
        (lambda one: one.update(components=[]), r"components: Input should be"),
        (lambda one: one.pop("schema"), r"KeyError\('schema'\)"),
    ],
    ids=[
        *("missing", "unknown", "ill-typed", "text-for-a-number", "unknown-inside"),
        *("above", "elsewhere", "no-type", "list", "no-schema"),
    ],
)
def test_an_entry_that_does_not_belong_is_named(tmp_path: Path, change: Callable[[dict], Any], message: str) -> None:
    write_manifest(tmp_path, a_manifest({"llm": a_component()}))
    file = tmp_path / "manifest.json"
    listed = json.loads(file.read_text())
    change(listed)
    file.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged \({message}.*Export again with --stage validate"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "3", "null", "", "\x00", "[" * 100_000, '{"schema": ' + "[" * 100_000, '{"schema": [7]}']
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json (is damaged|has schema \[7\]).* Export again"):
        read_manifest(tmp_path)
