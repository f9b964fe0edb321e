"""`manifest.json`: what was exported, from what, with what, how far it is from PyTorch, and what was not done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmfs
from export.atomic_files import write_atomically
from export.components.component import Component, Port
from export.graph.kv_cache import aliases_of
from export.graph.onnx_graph import Graph
from export.process.fingerprint import file_digest
from models.mm_interleaved import CONFIG_FILE
from models.tensor_files import WEIGHTS_FILE
from plugins_trt.onnx_function import DOMAIN, DOMAIN_VERSION

SCHEMA = 6
MANIFEST_FILE = "manifest.json"
ONNX_DIR, ASSETS_DIR, ENGINES_DIR = "onnx", "assets", "engines"
PACKAGES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class GenerationResult:
    """What the exported model and PyTorch wrote and drew alike."""

    texts: list[str]
    """Greedy continuations, equal in both."""

    num_images: int
    worst_psnr_db: float
    """Of all images, at most `export.validate.end_to_end.EQUAL_DB`."""


def component_entry(
    component: Component, graph: Graph, file: Path, validation: dict[str, Any], *, root: Path
) -> dict[str, Any]:
    """A component's part of the manifest."""
    weights = file.with_suffix(".data")
    return {
        "onnx": {
            **file_entry(file, root),
            "weights": [file_entry(weights, root)] if weights.is_file() else [],
            "opset": graph.opset,
            f"{DOMAIN}_domain": DOMAIN_VERSION,
        },
        "inputs": ports_entry(component.inputs),
        "outputs": ports_entry(component.outputs),
        "aliases": aliases_of(component.outputs),
        "num_nodes": graph.num_nodes,
        "num_mmfs_nodes": graph.num_mmfs_nodes,
        "validation": validation,
        "engines": {},
    }


def write_onnx_manifest(
    root: Path,
    *,
    key: str,
    how: dict[str, Any],
    model_dir: Path,
    components: dict[str, Any],
    assets: Sequence[Path],
    samples: str,
    absent: Mapping[str, list[str]],
    generation: GenerationResult | str,
) -> None:
    """Write `manifest.json` after stage "validate"; all files it names are there. `key` says what they depend on, `how`
    what was asked for, `absent` (from `export.store.selection`) what is not there, `generation` what agreed or why
    nothing was written and drawn."""
    manifest = {
        "schema": SCHEMA,
        "key": key,
        "tool": {"name": "export.trt", "mmfs": mmfs.__version__},
        "how": how,
        "versions": {package: version(package) for package in PACKAGES},
        "model_dir": str(model_dir.absolute()),
        "model": {name: file_entry(model_dir / name, model_dir) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        "samples": samples,
        "components": components,
        **absent,
        "assets": [file_entry(asset, root) for asset in assets],
        "generation": {"status": "not run", "reason": generation}
        if isinstance(generation, str)
        else {"status": "pass", **asdict(generation)},
    }
    write_manifest(root, manifest)


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Put `manifest.json` in the place of an earlier one, whole or not at all."""
    manifest["not_done"] = _not_done(manifest)
    write_atomically(root / MANIFEST_FILE, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_manifest(root: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version of this program.
    """
    file = root / MANIFEST_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{root} holds no {MANIFEST_FILE}. Expected what python -m export.trt writes.")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}). Export again with --stage validate.") from error
    if schema != SCHEMA:
        raise ValueError(
            f"{file} has schema {schema}; this program reads {SCHEMA}. Export again with --stage validate."
        )
    return manifest


def manifest_of(root: Path) -> dict[str, Any] | None:
    """The same; None where nothing can be read."""
    try:
        return read_manifest(root)
    except (FileNotFoundError, ValueError):
        return None


def _not_done(manifest: Mapping[str, Any]) -> list[str]:
    """What nobody may believe to have been done."""
    components = manifest["components"]
    built = {
        name: [entry for entry in component["engines"].values() if entry["status"] == "built"]
        for name, component in components.items()
    }
    lacking = [name for name, found in built.items() if not found]
    idle = [name for name, found in built.items() if found and not any(map(was_executed, found))]
    sentences = [
        f"{what}: {', '.join(manifest[names])}"
        for what, names in (("not exported", "not_exported"), ("left to PyTorch", "left_to_pytorch"))
        if manifest[names]
    ]
    if lacking:
        sentences.append(f"no engine: {', '.join(lacking)}")
    if idle:
        sentences.append(f"engines built and never executed: {', '.join(idle)}")
    return sentences


def was_executed(engine: Mapping[str, Any]) -> bool:
    """Whether an engine has run anywhere, by its entry."""
    return "executed" in engine and engine["executed"]["status"] != "not run"


def file_entry(file: Path, root: Path) -> dict[str, Any]:
    """Where a file is, how large, and its digest."""
    return {"path": file.relative_to(root).as_posix(), "bytes": file.stat().st_size, "sha256": file_digest(file)}


def ports_entry(ports: Mapping[str, Port]) -> list[dict[str, Any]]:
    """Inputs or outputs as the manifest describes them: name, dtype, shape with the names of dynamic axes, and role."""
    return [
        {"name": name, "dtype": str(port.dtype).removeprefix("torch."), "shape": list(port.shape), "role": port.role}
        for name, port in ports.items()
    ]
