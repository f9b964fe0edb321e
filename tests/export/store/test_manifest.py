import hashlib
import json
from pathlib import Path

import pytest

from export.components.component import Component, Tolerances
from export.store.job import NEUTRAL_DIR


@pytest.fixture
def manifest(exported: Path) -> dict:
    return json.loads((exported / "manifest.json").read_text(encoding="utf-8"))


def test_every_file_is_listed_with_its_digest(exported: Path, model_dir: Path, manifest: dict) -> None:
    graphs = [component["onnx"] for component in manifest["components"].values()]
    entries = [*graphs, *(file for graph in graphs for file in graph["weights"]), *manifest["assets"]]
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
    assert manifest["components"]["llm"]["num_mmfs_nodes"] == {"MMFS": 2}


def test_it_says_what_was_used_and_what_was_not_done(manifest: dict, model_dir: Path) -> None:
    assert manifest["schema"] == 6
    expected = {"precision": "float32", "llm_weights": "same", "kv_cache": "trt_split"}
    assert manifest["how"] == {**expected, "max_past": None, "few_layers": None, "images": []}
    assert manifest["model_dir"] == str(model_dir)
    assert manifest["left_to_pytorch"] == manifest["not_exported"] == []
    assert manifest["not_done"] == [f"no engine: {', '.join(manifest['components'])}"]
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["samples"] == "the first 3 documents of samples/samples.json beside the model"
    assert manifest["generation"]["status"] == "pass"
    assert manifest["generation"]["num_images"] == len(manifest["generation"]["texts"]) == 3
