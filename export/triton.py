"""An export as a model repository of Triton Inference Server: a folder per component with its file and `config.pbtxt`.

The server computes components; the caller keeps the assets and the code that combines components (`export/runtime/`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from export.engine.compatibility import IncompatibleExport, check_file, check_graph
from export.formats import ServedKind
from export.store.manifest import ComponentEntry, EngineEntry, Manifest, read_manifest
from export.store.rebuild_command import how_to_rebuild, rebuild_command
from models.write_errors import writing

TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
"""The server's names."""

MODEL_FILES = {"onnx": "model.onnx", "tensorrt": "model.plan"}


def write_repository(root: Path, repository: Path, kind: ServedKind) -> list[str]:
    """Write a model repository.

    Args:
        root: what `python -m export.trt` wrote.
        repository: a directory that does not exist yet; it appears when it is complete.
        kind: "onnx": the graphs, for the server's onnxruntime back end. "tensorrt": the engines of TensorRT; the server
            does not load those of TensorRT-RTX.

    Returns:
        The names of the components.

    Raises:
        FileExistsError: the repository exists.
        IncompatibleExport: a file is not as the manifest says, or there is no engine.
    """
    check_new(repository)
    manifest = read_manifest(root)
    stage = {"stage": "validate"} if kind == "onnx" else {"stage": "build", "builder": "tensorrt"}
    repository.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{repository.name}-", dir=repository.parent) as scratch:
        whole = Path(scratch) / repository.name
        for name, entry in manifest.components.items():
            engine = _engine(root, manifest, name) if kind == "tensorrt" else None
            folder = whole / name / "1"  # the version
            folder.mkdir(parents=True)
            first, *others = entry.onnx.files if engine is None else (engine.plan,)
            cure = how_to_rebuild(root, manifest, **stage)
            if engine is None:
                check_graph(root, entry.onnx, cure)
            else:
                check_file(root, engine.plan, cure)
            # The others keep their names, by which the graph finds them.
            names = [MODEL_FILES[kind], *(Path(file.path).name for file in others)]
            for file, own_name in zip((first, *others), names, strict=True):
                with writing(repository / name / "1" / own_name, file.bytes):
                    shutil.copyfile(root / file.path, folder / own_name)
            num_profiles = 0 if engine is None else len(engine.profiles)
            (whole / name / "config.pbtxt").write_text(model_config(name, entry, kind, num_profiles))
        whole.rename(repository)
    return list(manifest.components)


def check_new(repository: Path) -> None:
    """Raise FileExistsError if the path exists."""
    if repository.exists():
        raise FileExistsError(f"{repository} exists. Name a new directory for the model repository, or remove it.")


def model_config(name: str, entry: ComponentEntry, kind: ServedKind, num_profiles: int = 0) -> str:
    """The text of `config.pbtxt`.

    Args:
        name: of the component.
        entry: its part of the manifest.
        kind: what the server runs.
        num_profiles: of an engine; each is offered.
    """
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"' if kind == "onnx" else 'platform: "tensorrt_plan"',
        # The banks of images have no batch axis, so the server must not merge requests into batches.
        "max_batch_size: 0",
    ]
    for block, ports in (("input", entry.inputs), ("output", entry.outputs)):
        for port in ports:
            dims = ", ".join(str(size if isinstance(size, int) else -1) for size in port.shape)
            lines += [
                f"{block} {{",
                f"  name: {_quoted(port.name)}",
                f"  data_type: {TYPES[port.dtype]}",
                f"  dims: [ {dims} ]",
                "}",
            ]
    if num_profiles > 1:
        numbers = ", ".join(_quoted(str(number)) for number in range(num_profiles))
        lines += ["instance_group {", "  kind: KIND_GPU", "  count: 1", f"  profile: [ {numbers} ]", "}"]
    return "\n".join(lines) + "\n"


def _engine(root: Path, manifest: Manifest, name: str) -> EngineEntry:
    """The newest engine of TensorRT that was built."""
    built = list(manifest.components[name].built("tensorrt").values())
    if not built:
        build = rebuild_command(root, manifest, stage="build", builder="tensorrt")
        raise IncompatibleExport(
            f"There is no TensorRT engine of {name}, which the server could load. Write the ONNX graphs with "
            f"--triton-kind onnx, or build one where TensorRT is: {build}"
        )
    return built[-1]


def _quoted(text: str) -> str:
    return json.dumps(text)
