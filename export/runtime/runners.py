"""The files of an export as components that can be called, each checked before it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from export.components.all import components_of
from export.components.component import Component, Port
from export.engine.compatibility import (
    IncompatibleExport,
    Machine,
    check_engine,
    check_file,
    check_graph,
    check_model,
    check_names,
    check_whole,
    engine_of,
)
from export.graph.truncate import truncate_layers
from export.runtime.assets import ASSET_FILES, Assets
from export.runtime.kserve_runner import KServeRunner
from export.runtime.onnxruntime_runner import OnnxRuntimeRunner
from export.runtime.runner import ComponentRunner, TorchRunner
from export.runtime.tensorrt_runner import Loader, TensorRTRunner
from export.store.manifest import ASSETS_DIR, Manifest, PortEntry, read_manifest
from export.store.rebuild_command import how_to_rebuild
from models import MMInterleaved


def onnxruntime_runners_of(components: Mapping[str, Component], folder: Path) -> dict[str, OnnxRuntimeRunner]:
    """Components as onnxruntime computes them from the files of a folder on the CPU."""
    return {
        name: OnnxRuntimeRunner(name, one.inputs, one.outputs, folder / f"{name}.onnx", torch.device("cpu"))
        for name, one in components.items()
    }


def exported_model(root: Path, model_dir: Path) -> MMInterleaved:
    """The model that an export was made of, with as many layers as were exported.

    Raises:
        IncompatibleExport: it is another one.
        FileNotFoundError, ValueError: there is no export, or no model.
    """
    manifest = read_manifest(root)
    check_model(manifest, model_dir)
    model = MMInterleaved.from_pretrained(model_dir)
    if (num_layers := manifest.how.few_layers) is not None:
        truncate_layers(model, num_layers)
    return model


def onnxruntime_runners(
    root: Path, device: torch.device, model: MMInterleaved | None
) -> tuple[dict[str, ComponentRunner], Assets]:
    """The assets, and all components in onnxruntime, except those that were left to PyTorch."""
    manifest = _checked(root)
    runners = _torch_runners(manifest.left_to_pytorch, model, device, manifest)
    for name in manifest.components:
        runners[name] = _onnxruntime_runner(root, manifest, name, device)
    return runners, _assets(root, manifest)


SERVED = frozenset({"image_tokenizer", "unet_mmfs", "vae_decoder"})
"""What a server computes, of a session with one. The others stay here: the language model's cache would travel with
every token, and the rest is small."""


def kserve_runners(root: Path, url: str, model: MMInterleaved | None) -> tuple[dict[str, ComponentRunner], Assets]:
    """The assets, the components of `SERVED` on a server, and the others in onnxruntime on the CPU, except those that
    were left to PyTorch."""
    manifest, device = _checked(root), torch.device("cpu")
    runners = _torch_runners(manifest.left_to_pytorch, model, device, manifest)
    for name, entry in manifest.components.items():
        if name not in SERVED:
            runners[name] = _onnxruntime_runner(root, manifest, name, device)
            continue
        served = KServeRunner(name, _ports(entry.inputs), _ports(entry.outputs), url)
        if other := served.different_ports():
            raise IncompatibleExport(
                f"{name} of {url} has other {', '.join(other)} than manifest.json of {root} lists. Give the server the "
                "repository of this export: python -m export.trt ... --triton DIR."
            )
        runners[name] = served
    return runners, _assets(root, manifest)


def _checked(root: Path) -> Manifest:
    """The manifest of an export that is complete."""
    manifest = read_manifest(root)
    check_whole(root, manifest)
    check_names(manifest)
    return manifest


def _onnxruntime_runner(root: Path, manifest: Manifest, name: str, device: torch.device) -> OnnxRuntimeRunner:
    """A graph of an export.

    Raises:
        IncompatibleExport: it is not what the manifest says.
    """
    entry, cure = manifest.components[name], how_to_rebuild(root, manifest, stage="validate")
    check_graph(root, entry.onnx, cure)
    file = root / entry.onnx.file.path
    runner = OnnxRuntimeRunner(name, _ports(entry.inputs), _ports(entry.outputs), file, device)
    if other := runner.different_ports():
        raise IncompatibleExport(f"{file} has other {', '.join(other)} than manifest.json lists. {cure}")
    return runner


def tensorrt_runners(
    root: Path, backend: str, package: ModuleType, machine: Machine, device: torch.device, model: MMInterleaved | None
) -> tuple[dict[str, ComponentRunner], Assets]:
    """The assets, and all components as engines, except those that were left to PyTorch."""
    manifest = _checked(root)
    entries = {name: engine_of(root, manifest, name, backend, machine) for name in manifest.components}
    for name, entry in entries.items():
        if entry is not None:
            check_engine(root, manifest, name, entry, backend, machine)
    left = [name for name, entry in entries.items() if entry is None]
    runners = _torch_runners([*left, *manifest.left_to_pytorch], model, device, manifest)
    kinds = {engine.plugin_kind for engine in entries.values() if engine is not None}
    loader = Loader(package, {kind for kind in kinds if kind is not None})
    for name, engine in entries.items():
        if engine is None:
            continue
        described = manifest.components[name]
        plan = (root / engine.plan.path).read_bytes()
        ports = _ports(described.inputs), _ports(described.outputs)
        runners[name] = TensorRTRunner(name, *ports, plan, engine.profiles, loader, device)
    return runners, _assets(root, manifest)


def _torch_runners(
    names: Sequence[str], model: MMInterleaved | None, device: torch.device, manifest: Manifest
) -> dict[str, ComponentRunner]:
    """The components that were left to PyTorch.

    Raises:
        ValueError: there is some, and no model.
    """
    if not names:
        return {}
    if model is None:
        raise ValueError(
            f"{', '.join(names)} was left to PyTorch with --torch-fallback, which needs the model that was exported: "
            "give it as model, or with --model."
        )
    components = components_of(model, sampling_locations=manifest.how.sampling_locations)
    return {name: TorchRunner(components[name], device) for name in names}


def _assets(root: Path, manifest: Manifest) -> Assets:
    cure, listed = how_to_rebuild(root, manifest, stage="validate"), {entry.path for entry in manifest.assets}
    if lacking := sorted({f"{ASSETS_DIR}/{name}" for name in ASSET_FILES} - listed):
        raise IncompatibleExport(f"manifest.json of {root} does not list {', '.join(lacking)}. {cure}")
    for entry in manifest.assets:
        check_file(root, entry, cure)
    recorded = how_to_rebuild(root, manifest, stage="validate", sampling_locations=True)
    cannot_record = (
        f"{root} was exported without --sampling-locations, so it does not tell where MMFS samples. {recorded}"
    )
    try:
        return replace(Assets.load(root / ASSETS_DIR), cannot_record=cannot_record)
    except (FileNotFoundError, ValueError) as error:
        raise IncompatibleExport(f"{error} {cure}") from error


def _ports(entries: Sequence[PortEntry]) -> dict[str, Port]:
    return {port.name: Port(getattr(torch, port.dtype), port.shape, port.role) for port in entries}
