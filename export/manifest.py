"""`manifest.json`: what was exported, from what, with what, how far it is from PyTorch, and what was not done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmfs
from export.components import Component, Port
from export.end_to_end import GenerationResult
from export.onnx_graph import OPSET, Graph
from export.parity import TOLERANCE, CaseResult
from models.mm_interleaved import CONFIG_FILE, WEIGHTS_FILE
from plugins_trt.onnx_function import DOMAIN, DOMAIN_VERSION

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
NOT_DONE = ["engine: not built", "reduced precision: not exported, everything is float32"]
PACKAGES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime")


def component_entry(
    component: Component, graph: Graph, file: Path, results: Sequence[CaseResult], *, root: Path
) -> dict[str, Any]:
    """A component's part of the manifest."""
    return {
        "onnx": {**file_entry(file, root), "opset": OPSET, f"{DOMAIN}_domain": DOMAIN_VERSION},
        "inputs": _ports(component.inputs),
        "outputs": _ports(component.outputs),
        "num_nodes": graph.num_nodes,
        "num_mmfs_nodes": graph.num_mmfs_nodes,
        "validation": {
            "status": "pass",
            "runtime": "onnxruntime CPU against PyTorch, float32, real inputs",
            "tolerance": TOLERANCE,
            "max_relative_error": max(result.worst for result in results),
            "cases": [asdict(result) for result in results],
        },
        "engine": {"status": "not built"},
    }


def write_manifest(
    root: Path,
    *,
    model_dir: Path,
    components: dict[str, Any],
    assets: Sequence[Path],
    samples: str,
    generation: GenerationResult,
) -> None:
    """Write `manifest.json` into `root`; all files it names are there."""
    manifest = {
        "schema": SCHEMA,
        "tool": {"name": "export.trt", "stage": "onnx", "mmfs": mmfs.__version__},
        "versions": {package: version(package) for package in PACKAGES},
        "model": {name: file_entry(model_dir / name, model_dir) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        "samples": samples,
        "components": components,
        "assets": [file_entry(asset, root) for asset in assets],
        "generation": {"status": "pass", **asdict(generation)},
        "not_done": NOT_DONE,
    }
    (root / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_entry(file: Path, root: Path) -> dict[str, Any]:
    """Where a file is, how large, and its digest."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": file.relative_to(root).as_posix(), "bytes": file.stat().st_size, "sha256": digest}


def _ports(ports: dict[str, Port]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": str(port.dtype).removeprefix("torch."), "shape": list(port.shape)}
        for name, port in ports.items()
    ]
