"""Stage "build": the plans of the exported graphs, and in the manifest what is known about each.

A plan needs no GPU to be built with TensorRT-RTX. It needs one to be executed, and nothing here shows that it was.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.components.profiles import Limits, Profile
from export.engine.build_process import BUILT_FILE, INSPECTED_FILE, Request
from export.engine.checks import EngineError, check_plugins, inspected, memory_in_log
from export.engine.compatibility import KERNELS, capability_for, here, requirements
from export.engine.profiles import profiles_of
from export.engine.reuse import drop_stale
from export.process.child_process import ChildError, run_child
from export.process.fingerprint import digest_of, file_digest
from export.process.progress import Log, ReadProgress, RemainingBuildTime
from export.process.source_digest import files_digest, modules_digest
from export.store.entries import file_entry
from export.store.manifest import (
    ENGINES_DIR,
    BuilderEntry,
    ComponentEntry,
    EngineEntry,
    MachineCode,
    NoEngine,
    Outcome,
    read_manifest,
    write_manifest,
)
from mmfs.kernels.nvrtc import nvrtc
from models.atomic_files import write_atomically
from models.directory_lock import directory_lock
from plugins_trt.kinds import USUAL_PLUGIN_KIND
from plugins_trt.machine_code import ARCHITECTURES, PTX_ARCHITECTURE
from plugins_trt.plugin_kinds import architectures_of, check_plugin_kind
from plugins_trt.tensorrt_package import PACKAGES, library_folders, open_package

TIMING_FILE = "timing.cache"
BUILDER_MODULES = ("export.engine.build_process",)
"""These and all modules that they import except `PLUGIN_MODULES` are the code that every plan depends on."""

PLUGIN_MODULES = ("plugins_trt.plugin_kinds",)
"""These and all modules that they import are the code that plans with plugins compiled here depend on as well."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build, and how."""

    builder: str
    """A key of `PACKAGES`."""

    limits: Limits = field(default_factory=Limits)
    components: tuple[str, ...] = ()
    """Empty: all."""

    torch_fallback: tuple[str, ...] = ()
    """Components that stay without an engine, on purpose."""

    function_fallback: tuple[str, ...] = ()
    """Components whose mmfs nodes are replaced by their bodies of standard operators, not by plugins."""

    architectures: tuple[str, ...] = (*ARCHITECTURES, PTX_ARCHITECTURE)
    """For which the kernels of the plugin kind "python" are compiled."""

    plugin: str | None = None
    """One of `plugins_trt.kinds.PLUGIN_KINDS`; None: the builder's usual one."""

    plugin_library: Path | None = None
    """The file of the plugin kind "library"."""

    @property
    def plugin_kind(self) -> str:
        """How the plugins get into a plan."""
        return USUAL_PLUGIN_KIND[self.builder] if self.plugin is None else self.plugin


def build_engines(root: Path, options: BuildOptions, log: Log) -> None:
    """Build the plan of every component of an export, one process each, and enter them into the manifest.

    An existing plan is kept if nothing that it depends on has changed.

    Args:
        root: what stage "onnx" wrote.
        options: what to build.
        log: gets a line of progress now and then.

    Raises:
        MissingPackage: the builder is not installed.
        ValueError: a component is named that does not exist, the builder does not take plugins of this kind, or another
            process is building here.
        EngineError: some could not be built; all others are there.
    """
    check_plugin_kind(options.plugin_kind, options.builder, options.plugin_library)
    trt_version = open_package(options.builder).__version__
    failed = []
    with directory_lock(root):
        manifest = read_manifest(root)
        components = manifest.components
        named = {*options.components, *options.torch_fallback, *options.function_fallback}
        if unknown := sorted(named - {*components, *manifest.left_to_pytorch}):
            raise ValueError(f"There is no component {', '.join(unknown)}. The export has {', '.join(components)}.")
        wanted = [name for name in components if not options.components or name in options.components]
        folder_name = f"{options.builder}-{trt_version}"
        folder = root / ENGINES_DIR / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".build-*"):
            shutil.rmtree(leftover)
        clock = RemainingBuildTime.of(
            {
                name: [one.seconds for one in components[name].engines.values() if isinstance(one, EngineEntry)]
                for name in wanted
            }
        )
        for number, name in enumerate(wanted, start=1):
            head = f"[{number}/{len(wanted)}] {name}"
            before = components[name].engines.get(folder_name)
            if name in options.torch_fallback:
                entry: EngineEntry | NoEngine = NoEngine("not built", "left to PyTorch with --torch-fallback")
                log(f"{head}: left to PyTorch with --torch-fallback")
            else:
                entry = _one_engine(
                    root, folder, name, components[name], before, options, trt_version, clock, head, log
                )
            if entry.status == "failed":
                failed.append(name)
            components[name].engines[folder_name] = entry
            write_manifest(root, manifest)
            clock.finish(name)
        drop_stale(root, manifest)
    if failed:
        raise EngineError(f"No engine of {', '.join(failed)}; {root / 'manifest.json'} says why.")


def _one_engine(
    root: Path,
    folder: Path,
    name: str,
    component: ComponentEntry,
    before: EngineEntry | NoEngine | None,
    options: BuildOptions,
    trt_version: str,
    clock: RemainingBuildTime,
    head: str,
    log: Log,
) -> EngineEntry | NoEngine:
    """The manifest's entry about this engine, which is there if its status is "built"."""
    onnx = root / component.onnx.file.path
    plan = folder / f"{name}.plan"
    on_bytes_read = ReadProgress(name, [*(root / listed.path for listed in component.onnx.files), plan], log)
    for listed in component.onnx.files:
        file = root / listed.path
        if not file.is_file() or file_digest(file, on_bytes_read) != listed.sha256:
            raise EngineError(f"{file} is not the file that was checked. Export again with --stage validate.")
    shapes = component.input_shapes()
    profiles = profiles_of(name, shapes, options.limits)
    uses_plugins = name not in options.function_fallback
    plugin_kind = options.plugin_kind if uses_plugins else None
    key = engine_key(component, profiles, options, trt_version, plugin_kind)
    if isinstance(before, EngineEntry) and before.key == key:
        if plan.is_file() and file_digest(plan, on_bytes_read) == before.plan.sha256:
            log(f"{head}: nothing has changed since it was built")
            return before
        log(f"{head}: {plan.name} is missing or damaged")
    expected = component.num_mmfs_nodes if uses_plugins else {}
    log(f"{head} ...")

    def heartbeat(seconds: float, phase: str) -> None:
        log(f"      {seconds:.0f} s, {phase}; {clock.left(name, seconds)}")

    with (
        tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch_name,
        library_folders(options.builder) as libraries,
    ):
        scratch = Path(scratch_name)
        log_file = scratch / "log"
        Request(
            builder=options.builder,
            onnx=str(onnx),
            plan=str(scratch / "plan"),
            log=str(log_file),
            profiles=tuple(profile.shapes(shapes) for profile in profiles),
            architectures=options.architectures,
            plugins=plugin_kind,
            plugin_library=str(options.plugin_library) if options.plugin_library is not None else None,
            # TensorRT-RTX compiles on the GPU that loads a plan, and has nothing to measure before.
            timing_cache=str(folder / TIMING_FILE) if options.builder == "tensorrt" else None,
        ).save(scratch / "request.json")
        try:
            built, inspection = _run(scratch, heartbeat, libraries)
            check_plugins(built, expected)
            inspector = inspected(inspection, expected)
        except (EngineError, ChildError) as error:
            plan.unlink(missing_ok=True)
            log(f"      failed: {error}")
            return NoEngine("failed", str(error), tuple(profiles))
        finally:
            messages = log_file.read_text(encoding="utf-8", errors="replace") if log_file.exists() else ""
            if log_file.exists():
                log_file.replace(folder / f"{name}.build.log")
        layers = folder / f"{name}.layers.json"
        layers.unlink(missing_ok=True)  # of the plan before this one
        if "layers" in inspection:
            write_atomically(layers, json.dumps(inspection["layers"], indent=1))
        (scratch / "plan").replace(plan)
    used = plugin_kind if expected else None
    architectures = architectures_of(used, options.architectures, options.plugin_library) if used is not None else []
    cuda = nvrtc().version if used in ("aot", "python") else None
    library = options.plugin_library if used == "library" else None
    entry = EngineEntry(
        key=key,
        plan=file_entry(plan, root),
        builder=BuilderEntry(PACKAGES[options.builder], trt_version),
        built_on=here(),
        seconds=built["seconds"],
        limits=options.limits,
        profiles=tuple(profiles),
        memory_bytes=memory_in_log(messages),
        num_layers_parsed=built["num_layers"],
        num_plugins=dict(expected),
        mmfs_nodes="plugins" if uses_plugins else "bodies of standard operators, asked for with --function-fallback",
        plugin_kind=used,
        plugin_library=str(library.absolute()) if library is not None else None,
        machine_code=MachineCode(tuple(architectures), tuple(built["machine_code_sha256"])),
        requires=requirements(options.builder, used, architectures, cuda),
        inspector=inspector,
        executed=Outcome("not run", "export.trt builds engines and does not execute them"),
        verified=Outcome("not run", "it was not executed"),
    )
    counted = ", ".join(f"{count} {operator} plugins" for operator, count in expected.items())
    log(f"      {entry.plan.bytes / 1e6:.1f} MB in {entry.seconds:.0f} s; {counted or 'no plugins'}")
    return entry


def engine_key(
    component: ComponentEntry,
    profiles: Sequence[Profile],
    options: BuildOptions,
    trt_version: str,
    plugin_kind: str | None,
) -> str:
    """Digest of everything that a plan depends on."""
    plugins: list[Any] = []
    if plugin_kind is not None and component.num_mmfs_nodes:
        plugins = [plugin_kind]
        if options.plugin_library is not None:
            plugins += [file_digest(options.plugin_library)]
        else:
            plugins += [modules_digest(PLUGIN_MODULES), files_digest(KERNELS), *options.architectures, *nvrtc().version]
    return digest_of(
        {
            "onnx": [file.sha256 for file in component.onnx.files],
            "profiles": [asdict(profile) for profile in profiles],
            "builder": [options.builder, trt_version, modules_digest(BUILDER_MODULES, without=PLUGIN_MODULES)],
            "plugins": plugins if plugin_kind is not None else None,
            "machine": [here(), capability_for(options.builder)],
        }
    )


def _run(
    scratch: Path, heartbeat: Callable[[float, str], None], libraries: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the process says about building and about inspecting."""
    died = None
    try:
        run_child(
            "export.engine.build_process",
            [str(scratch / "request.json")],
            heartbeat=heartbeat,
            library_folders=libraries,
        )
    except ChildError as error:
        died = error
    found = []
    for name in (BUILT_FILE, INSPECTED_FILE):
        file = scratch / name
        found.append(json.loads(file.read_text()) if file.is_file() else {"error": str(died)})
    built, inspected = found
    if "error" in built:
        raise EngineError(built["error"])
    return built, inspected
