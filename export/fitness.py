"""Whether an export is whole, and fits this machine: asked before any of its files is opened.

Loading a plan that was built by another version or for another GPU ends in a line of the driver's at best. The manifest
knows all that, so the refusal here says what came, what was expected, and the command that makes it right.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.fingerprint import file_digest, sources_digest
from plugins_trt.tensorrt_package import PACKAGES

BUILDERS = {"trt": "tensorrt", "rtx": "rtx"}
"""Whose engines a back end runs, as a key of `PACKAGES`."""

KERNEL_SOURCES = ("mmfs/kernels/*.cu", "mmfs/kernels/*.cuh", "mmfs/kernels/*.h", "mmfs/kernels/arguments.py")
"""What the machine code in a plan and the arguments that we launch it with have to agree on."""

LEAST_DRIVERS = {12: 525, 13: 580}
"""By the CUDA that compiled the kernels: the first driver branch that loads them (minor-version compatibility)."""

DRIVER_FILE = Path("/proc/driver/nvidia/version")


class Misfit(ValueError):
    """An export that is damaged, or made for another machine."""


@dataclass(frozen=True)
class Machine:
    """What an engine has to fit."""

    platform: str
    """System and processor, e.g. "Linux x86_64"."""

    builder_version: str
    """Of the TensorRT that is installed."""

    capability: tuple[int, int] | None
    """Compute capability of the GPU; None: there is none."""

    driver: int | None
    """Branch of the GPU's driver, e.g. 580; None: unknown."""

    kernels_sha256: str
    """Of `KERNEL_SOURCES`."""

    @classmethod
    def here(cls, builder_version: str, device: torch.device) -> Machine:
        """This one, with the GPU `device`."""
        capability = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None
        return cls(here(), builder_version, capability, driver_branch(DRIVER_FILE), sources_digest(KERNEL_SOURCES))


def here() -> str:
    """This system and processor."""
    return f"{platform.system()} {platform.machine()}"


def driver_branch(file: Path) -> int | None:
    """Of the NVIDIA driver that describes itself in `file`; None if there is no such file."""
    if not file.is_file():
        return None
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d+", file.read_text())
    return int(found[1]) if found else None


def capability_for(builder: str) -> list[int] | None:
    """Compute capability of the GPUs that a plan built here is for; None: any.

    TensorRT's plans run on GPUs like the one they were built on, TensorRT-RTX compiles its plans for the GPU that loads
    them.
    """
    own_gpu = builder == "tensorrt" and torch.cuda.is_available()
    return list(torch.cuda.get_device_capability()) if own_gpu else None


def requirements(builder: str, carrier: str | None, architectures: list[str], cuda_major: int | None) -> dict[str, Any]:
    """An engine's part of the manifest that `check_engine` reads; made where the engine is.

    Args:
        builder: a key of `PACKAGES`.
        carrier: of its plugins; None: it has none. With "python" this program launches the kernels in the plan, and has
            to have the same; the others launch theirs without us.
        architectures: of the machine code in the plan; empty without plugins.
        cuda_major: of the NVRTC that made it; None: it was compiled elsewhere.
    """
    return {
        "platform": here(),
        "capability": capability_for(builder),
        "architectures": architectures,
        "least_driver": None if cuda_major is None else LEAST_DRIVERS[cuda_major],
        "kernels_sha256": sources_digest(KERNEL_SOURCES) if carrier == "python" else None,
    }


def options_of(manifest: Mapping[str, Any], **more: Any) -> str:
    """Options of `python -m export.trt` for an export of the same kind, behind some others, which come first."""
    options = more | {name: value for name, value in manifest["how"].items() if name not in more}
    words = []
    for name, value in options.items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return " ".join(words)


def check_file(root: Path, entry: Mapping[str, Any], rebuild: str) -> None:
    """Raise Misfit unless a file is there as the manifest lists it.

    Args:
        root: the export.
        entry: its path, bytes and sha256.
        rebuild: options of `python -m export.trt` that write it again.
    """
    file = root / entry["path"]
    command = _command(root, rebuild)
    if not file.is_file():
        raise Misfit(f"{file} is missing, and manifest.json lists it. {command}")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise Misfit(f"{file} has {size} bytes, and manifest.json says {entry['bytes']}: it was cut. {command}")
    if file_digest(file) != entry["sha256"]:
        raise Misfit(f"{file} does not have the content whose SHA-256 manifest.json lists: it is damaged. {command}")


def check_whole(root: Path, manifest: Mapping[str, Any]) -> None:
    """Raise Misfit unless every component was exported, or left to PyTorch."""
    if missing := manifest["not_exported"]:
        names = ",".join(missing)
        command, kind = f"python -m export.trt MODEL_DIR --out {root}", options_of(manifest)
        raise Misfit(
            f"{root} cannot write or draw without {', '.join(missing)}, which were not exported. Export them, too: "
            f"{command} {kind}; or leave them to PyTorch: {command} --components {','.join(manifest['components'])} "
            f"--torch-fallback {','.join([*manifest['left_to_pytorch'], names])} {kind}"
        )


def check_model(manifest: Mapping[str, Any], model_dir: Path) -> None:
    """Raise Misfit unless a model is the one that was exported."""
    for entry in manifest["model"].values():
        file = model_dir / entry["path"]
        if not file.is_file() or file_digest(file) != entry["sha256"]:
            raise Misfit(
                f"{model_dir} is not the model that was exported: {entry['path']} is missing or has another content "
                "than manifest.json lists. Name the one that was, or export this one."
            )


def engine_of(root: Path, manifest: Mapping[str, Any], name: str, backend: str, machine: Machine) -> Any:
    """The manifest's entry about the engine of a component; None if the component was left to PyTorch.

    Raises:
        Misfit: there is none for the TensorRT that is installed.
    """
    package = PACKAGES[BUILDERS[backend]]
    command = _command(root, _rebuild(manifest, name, backend))
    versions = []
    for folder, entry in manifest["components"][name]["engines"].items():
        builder, _, version = folder.partition("-")
        if builder != BUILDERS[backend]:
            continue
        versions.append(version)
        if version != machine.builder_version:
            continue
        if entry["status"] == "not built":
            return None
        if entry["status"] != "built":
            raise Misfit(f"There is no engine of {name}: {entry['reason']} {command}")
        return entry
    if versions:
        raise Misfit(
            f"The engine of {name} was built by {package} {', '.join(versions)}, and {machine.builder_version} is "
            f"installed, which does not load it. {command}"
        )
    raise Misfit(f"There is no engine of {name} for {package}. {command}")


def check_engine(
    root: Path, manifest: Mapping[str, Any], name: str, entry: Mapping[str, Any], backend: str, machine: Machine
) -> None:
    """Raise Misfit unless the machine can run an engine, and its plan is whole. Nothing is opened but to be hashed."""
    rebuild = _rebuild(manifest, name, backend, entry)
    needs = entry["requires"]
    if (why := _why_not(needs, machine)) is not None:
        raise Misfit(f"The engine of {name} {why}. {_command(root, rebuild)}")
    check_file(root, entry["plan"], rebuild)


def _why_not(needs: Mapping[str, Any], machine: Machine) -> str | None:
    if needs["platform"] != machine.platform:
        return f"was built on {needs['platform']}, and this is {machine.platform}"
    if needs["kernels_sha256"] not in (None, machine.kernels_sha256):
        return (
            f"holds machine code of other kernel sources (SHA-256 {needs['kernels_sha256'][:12]}) than mmfs/kernels "
            f"has now ({machine.kernels_sha256[:12]})"
        )
    if machine.capability is None:
        return "needs an NVIDIA GPU, and PyTorch sees none"
    least = needs["least_driver"]
    if least is not None and machine.driver is not None and machine.driver < least:
        return f"needs an NVIDIA driver of at least {least}, and this is {machine.driver}"
    own = ".".join(map(str, machine.capability))
    if needs["capability"] is not None and tuple(needs["capability"]) != machine.capability:
        built = ".".join(map(str, needs["capability"]))
        return f"was built for GPUs of compute capability {built}, and this one has {own}"
    if needs["architectures"] and not any(_runs(one, machine.capability) for one in needs["architectures"]):
        return f"holds kernels for {', '.join(needs['architectures'])}, and this GPU has compute capability {own}"
    return None


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on its own major and later minor capabilities, PTX on all later ones."""
    kind, _, number = architecture.partition("_")
    major, minor = divmod(int(number), 10)
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def _rebuild(manifest: Mapping[str, Any], name: str, backend: str, entry: Mapping[str, Any] | None = None) -> str:
    """Options that build an engine; if there is one already, of its kind."""
    kind: dict[str, Any] = {}
    if entry is not None:
        kind = {
            "plugin": entry["carrier"],
            "plugin_library": "FILE" if entry["carrier"] == "library" else None,
            "function_fallback": name if entry["mmfs_nodes"] != "plugins" else None,
            **entry["limits"],
        }
    return options_of(manifest, stage="build", builder=BUILDERS[backend], components=name, **kind)


def _command(root: Path, rebuild: str) -> str:
    return f"Make it again: python -m export.trt MODEL_DIR --out {root} {rebuild}"
