"""Whether an export is complete and fits this machine: checked before any of its files is opened.

Loading a plan that was built by another version or for another GPU ends in a line of the driver's at best. The manifest
records both, so the error here names what was found, what was expected, and the command that rebuilds it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from export.engine.drivers import DRIVER_FILE, Cuda, driver_branch, least_for_machine_code, least_for_ptx, newest_ptx
from export.process.fingerprint import digest_of, file_digest
from export.process.progress import Log, ReadProgress
from export.process.source_digest import files_digest, modules_digest
from export.store.graph_files import foreign_parts
from export.store.manifest import EngineEntry, FileEntry, GraphEntry, LeastDriver, Manifest, Requirements
from export.store.rebuild_command import how_to_rebuild_engines, rebuild_command
from models.digests import OnBytesRead
from plugins_trt.tensorrt_package import PACKAGES

BUILDERS = {"trt": "tensorrt", "rtx": "rtx"}
"""Whose engines a back end runs, as a key of `PACKAGES`."""

KERNELS = ("mmfs/kernels/*.cu", "mmfs/kernels/*.cuh", "mmfs/kernels/*.h")
ARGUMENTS = "mmfs.kernels.arguments"
"""The module that makes the arguments of a launch."""


class IncompatibleExport(ValueError):
    """An export that is damaged, or made for another machine."""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that an engine has to fit."""

    platform: str
    """System and processor, e.g. "Linux x86_64"."""

    builder_version: str
    """Of the TensorRT that is installed."""

    capability: tuple[int, int] | None
    """Compute capability of the GPU; None: there is none."""

    driver: int | None
    """Branch of the GPU's driver, e.g. 580; None: unknown."""

    kernels_sha256: str
    """From `kernels_digest`."""

    @classmethod
    def here(cls, builder_version: str, device: torch.device) -> Machine:
        """This machine, with the GPU `device`."""
        capability = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None
        return cls(here(), builder_version, capability, driver_branch(DRIVER_FILE), kernels_digest())


def kernels_digest() -> str:
    """Digest of the sources on which the machine code in a plan and the arguments of its launches have to agree."""
    return digest_of([files_digest(KERNELS), modules_digest([ARGUMENTS])])


def here() -> str:
    """This system and processor."""
    return f"{platform.system()} {platform.machine()}"


def capability_for(builder: str) -> tuple[int, int] | None:
    """Compute capability of the GPUs that a plan built here is for; None: any.

    TensorRT's plans run on GPUs like the one they were built on, TensorRT-RTX compiles its plans for the GPU that loads
    them.
    """
    own_gpu = builder == "tensorrt" and torch.cuda.is_available()
    return torch.cuda.get_device_capability() if own_gpu else None


def requirements(builder: str, plugin_kind: str | None, architectures: list[str], cuda: Cuda | None) -> Requirements:
    """What `check_engine` reads of an engine; made where the engine is.

    Args:
        builder: a key of `PACKAGES`.
        plugin_kind: of its plugins; None: it has none. With "python" this program launches the kernels in the plan, and
            needs the same sources; the other kinds do not use them.
        architectures: of the machine code in the plan; empty without plugins.
        cuda: of the NVRTC that made it; None: it was compiled elsewhere.
    """
    return Requirements(
        platform=here(),
        capability=capability_for(builder),
        architectures=tuple(architectures),
        cuda=None if cuda is None else _dotted(cuda),
        least_driver=None if cuda is None else LeastDriver(least_for_machine_code(cuda), least_for_ptx(cuda)),
        kernels_sha256=kernels_digest() if plugin_kind == "python" else None,
    )


def check_file(root: Path, entry: FileEntry, cure: str, on_bytes_read: OnBytesRead | None = None) -> None:
    """Raise IncompatibleExport unless a file is there as the manifest lists it.

    Args:
        root: the export.
        entry: what the manifest says of it.
        cure: from `how_to_rebuild`.
        on_bytes_read: called with the number of bytes of each read.
    """
    file = root / entry.path
    if not file.is_file():
        raise IncompatibleExport(f"{file} is missing, and manifest.json lists it. {cure}")
    size = file.stat().st_size
    if size != entry.bytes:
        raise IncompatibleExport(f"{file} has {size} bytes, and manifest.json says {entry.bytes}: it was cut. {cure}")
    if file_digest(file, on_bytes_read) != entry.sha256:
        raise IncompatibleExport(
            f"{file} does not have the content whose SHA-256 manifest.json lists: it is damaged. {cure}"
        )


def check_graph(root: Path, graph: GraphEntry, cure: str, on_bytes_read: OnBytesRead | None = None) -> None:
    """Raise IncompatibleExport unless a graph and its weights are there as the manifest lists them, and the graph reads
    no other file. The arguments are those of `check_file`."""
    for entry in graph.files:
        check_file(root, entry, cure, on_bytes_read)
    try:
        foreign = foreign_parts(root, graph)
    except ValueError as error:
        raise IncompatibleExport(f"{error} {cure}") from error
    if foreign:
        raise IncompatibleExport(
            f"{root / graph.file.path} has {', '.join(foreign[:3])}, which manifest.json does not list. {cure}"
        )


def is_undamaged(root: Path, manifest: Manifest, log: Log) -> bool:
    """Whether graphs, weights and assets are as the manifest lists them. Reads all of them, but no engines."""
    graphs = [component.onnx for component in manifest.components.values()]
    entries = [*(file for graph in graphs for file in graph.files), *manifest.assets]
    on_bytes_read = ReadProgress(str(root), [root / entry.path for entry in entries], log)
    try:
        for graph in graphs:
            check_graph(root, graph, cure="", on_bytes_read=on_bytes_read)
        for entry in manifest.assets:
            check_file(root, entry, cure="", on_bytes_read=on_bytes_read)
    except IncompatibleExport:
        return False
    return True


def check_whole(root: Path, manifest: Manifest) -> None:
    """Raise IncompatibleExport unless every component was exported, or left to PyTorch."""
    if missing := manifest.not_exported:
        with_them = rebuild_command(root, manifest, components=None)
        left = ",".join([*manifest.left_to_pytorch, *missing])
        without = rebuild_command(root, manifest, components=",".join(manifest.components), torch_fallback=left)
        raise IncompatibleExport(
            f"{root} cannot write or draw without {', '.join(missing)}, which were not exported. Export them, too: "
            f"{with_them}; or leave them to PyTorch: {without}"
        )


def check_names(manifest: Manifest) -> None:
    """Raise IncompatibleExport unless every graph and engine is in a file of its component's name, so that no two are
    swapped."""
    for name, component in manifest.components.items():
        plans = [engine.plan for engine in component.engines.values() if isinstance(engine, EngineEntry)]
        for file in (component.onnx.file, *plans):
            if PurePosixPath(file.path).stem != name:
                raise IncompatibleExport(
                    f"manifest.json says that the component {name!r} is in {file.path!r}, a file of another name. "
                    "Export the model again."
                )


def check_model(manifest: Manifest, model_dir: Path) -> None:
    """Raise IncompatibleExport unless a model is the one that was exported."""
    for entry in manifest.model.values():
        file = model_dir / entry.path
        if not file.is_file() or file_digest(file) != entry.sha256:
            raise IncompatibleExport(
                f"{model_dir} is not the model that was exported: {entry.path} is missing or has another content "
                "than manifest.json lists. Name the one that was, or export this one."
            )


def engine_of(root: Path, manifest: Manifest, name: str, backend: str, machine: Machine) -> EngineEntry | None:
    """The manifest's entry about the engine of a component; None if the component was left to PyTorch.

    Raises:
        IncompatibleExport: there is none for the TensorRT that is installed.
    """
    package, builder = PACKAGES[BUILDERS[backend]], BUILDERS[backend]
    folder = f"{builder}-{machine.builder_version}"
    components = manifest.components
    if (entry := components[name].engines.get(folder)) is not None:
        if isinstance(entry, EngineEntry):
            return entry
        if entry.status == "failed":
            cure = how_to_rebuild_engines(root, manifest, builder, name, {name: None})
            raise IncompatibleExport(f"There is no engine of {name}: {entry.reason} {cure}")
        return None
    others = {one: there.built(builder) for one, there in components.items()}
    newest = {one: list(found.values())[-1] if found else None for one, found in others.items()}
    lacking = {one: newest[one] for one, there in components.items() if folder not in there.engines}
    cure = how_to_rebuild_engines(root, manifest, builder, name, lacking)
    if others[name]:
        raise IncompatibleExport(
            f"The engine of {name} was built by {package} {', '.join(others[name])}, and {machine.builder_version} is "
            f"installed, which does not load it. {cure}"
        )
    raise IncompatibleExport(f"There is no engine of {name} for {package} {machine.builder_version}. {cure}")


def check_engine(root: Path, manifest: Manifest, name: str, entry: EngineEntry, backend: str, machine: Machine) -> None:
    """Raise IncompatibleExport unless the machine can run an engine and its plan is complete; files are only hashed."""
    builder, incompatible = BUILDERS[backend], {name: entry}
    if (why := _why_not(entry.requires, machine)) is not None:
        for one, there in manifest.components.items():
            other = there.engines.get(f"{builder}-{machine.builder_version}")
            if isinstance(other, EngineEntry) and _why_not(other.requires, machine) is not None:
                incompatible[one] = other
        raise IncompatibleExport(
            f"The engine of {name} {why}. {how_to_rebuild_engines(root, manifest, builder, name, incompatible)}"
        )
    check_file(root, entry.plan, how_to_rebuild_engines(root, manifest, builder, name, incompatible))


def _why_not(needs: Requirements, machine: Machine) -> str | None:
    if needs.platform != machine.platform:
        return f"was built on {needs.platform}, and this is {machine.platform}"
    if needs.kernels_sha256 is not None and needs.kernels_sha256 != machine.kernels_sha256:
        return (
            f"holds machine code of other kernel sources (SHA-256 {needs.kernels_sha256[:12]}) than mmfs/kernels "
            f"has now ({machine.kernels_sha256[:12]})"
        )
    if machine.capability is None:
        return "needs an NVIDIA GPU, and PyTorch sees none"
    own = _dotted(machine.capability)
    if needs.capability is not None and needs.capability != machine.capability:
        built = _dotted(needs.capability)
        return f"was built for GPUs of compute capability {built}, and this one has {own}"
    running = [one for one in needs.architectures if _runs(one, machine.capability)]
    if needs.architectures and not running:
        return f"holds kernels for {', '.join(needs.architectures)}, and this GPU has compute capability {own}"
    return _why_not_driver(needs, any(one.startswith("sm_") for one in running), machine.driver)


def _why_not_driver(needs: Requirements, has_machine_code: bool, driver: int | None) -> str | None:
    """`has_machine_code` for the GPU; otherwise the driver has to translate PTX."""
    if needs.least_driver is None or driver is None:
        return None
    least = needs.least_driver.machine_code if has_machine_code else needs.least_driver.ptx
    if driver >= least:
        return None
    kind = "machine code" if has_machine_code else "PTX"
    told = f"needs an NVIDIA driver of at least {least} for {kind} of CUDA {needs.cuda}, and this is {driver}"
    newest = newest_ptx(driver)
    if has_machine_code or newest is None:
        return f"{told}: install a newer driver"
    cuda = _dotted(newest)
    return (
        f"{told}, which reads that of CUDA {cuda}: install a newer driver, or nvidia-cuda-nvrtc=={cuda}.* before it is "
        "built again"
    )


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on its own major and later minor capabilities, PTX on all later ones."""
    kind, _, number = architecture.partition("_")
    major, minor = divmod(int(number), 10)
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]
