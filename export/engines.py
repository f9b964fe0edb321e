"""Stage "build": the plans of the exported graphs, and in the manifest what is known about each.

A plan needs no GPU to be built with TensorRT-RTX. It needs one to be executed, and nothing here claims that it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.child_process import ChildError, run_child
from export.engine_process import BUILT_FILE, INSPECTED_FILE, Request
from export.fingerprint import digest_of, file_digest, sources_digest
from export.fitness import requirements
from export.manifest import file_entry, read_manifest, write_manifest
from export.profiles import Limits, Profile, profiles_of
from mmfs.kernels.nvrtc import nvrtc
from plugins_trt.machine_code import ARCHITECTURES, PTX_ARCHITECTURE
from plugins_trt.tensorrt_package import PACKAGES, library_folders, open_package

ENGINES_DIR = "engines"
TIMING_FILE = "timing.cache"
SOURCES = ("plugins_trt/*.py", "mmfs/kernels/*", "export/engine_process.py")
"""Of our own files, what a plan depends on besides its graph."""

Say = Callable[[str], None]


class EngineError(RuntimeError):
    """An engine could not be built, or is not what was asked for."""


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
    """Components whose mmfs nodes become their bodies of standard operators instead of plugins."""

    architectures: tuple[str, ...] = (*ARCHITECTURES, PTX_ARCHITECTURE)
    """For which the plugins' kernels are compiled."""


def build_engines(root: Path, options: BuildOptions, say: Say) -> None:
    """Build the plan of every component of an export, one process each, and enter them into the manifest.

    A plan that is there and depends on nothing that has changed is kept.

    Args:
        root: what stage "onnx" wrote.
        options: what to build.
        say: gets a line of progress now and then.

    Raises:
        MissingPackage: the builder is not installed.
        ValueError: a component is named that does not exist, or another process is building here.
        EngineError: some could not be built; all others are there.
    """
    trt_version = open_package(options.builder).__version__
    failed = []
    with alone_in(root):
        manifest = read_manifest(root)
        components = manifest["components"]
        named = {*options.components, *options.torch_fallback, *options.function_fallback}
        if unknown := sorted(named - components.keys()):
            raise ValueError(f"There is no component {', '.join(unknown)}. The export has {', '.join(components)}.")
        wanted = [name for name in components if not options.components or name in options.components]
        folder_name = f"{options.builder}-{trt_version}"
        folder = root / ENGINES_DIR / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".build-*"):
            shutil.rmtree(leftover)
        clock = Clock.of(components, wanted)
        for number, name in enumerate(wanted, start=1):
            head = f"[{number}/{len(wanted)}] {name}"
            before = components[name]["engines"].get(folder_name)
            if name in options.torch_fallback:
                entry: dict[str, Any] = {"status": "not built", "reason": "left to PyTorch with --torch-fallback"}
                say(f"{head}: {entry['reason']}")
            else:
                entry = _one_engine(
                    root, folder, name, components[name], before, options, trt_version, clock, head, say
                )
            if entry["status"] == "failed":
                failed.append(name)
            components[name]["engines"][folder_name] = entry
            write_manifest(root, manifest)
            clock.finish(name)
    if failed:
        raise EngineError(f"No engine of {', '.join(failed)}; {root / 'manifest.json'} says why.")


@dataclass
class Clock:
    """How long the engines that are not built yet may take."""

    expected_s: dict[str, float | None]
    """By component; None: never built here."""

    @classmethod
    def of(cls, components: Mapping[str, Any], names: Sequence[str]) -> Clock:
        """From the times of earlier builds, whatever they were built with."""
        times = {
            name: [entry["seconds"] for entry in components[name]["engines"].values() if "seconds" in entry]
            for name in names
        }
        return cls({name: max(known) if known else None for name, known in times.items()})

    def finish(self, name: str) -> None:
        """This one needs no more time."""
        del self.expected_s[name]

    def left(self, name: str, seconds: float) -> str:
        """In words, `seconds` into the build of `name`."""
        known = [expected for expected in self.expected_s.values() if expected is not None]
        num_unknown = len(self.expected_s) - len(known)
        rest = sum(known) - min(seconds, self.expected_s[name] or 0.0)
        known_part = f"about {rest:.0f} s left" if known else ""
        unknown_part = f"{num_unknown} engines of unknown duration, never built here before" if num_unknown else ""
        return " and ".join(filter(None, [known_part, unknown_part]))


def _one_engine(
    root: Path,
    folder: Path,
    name: str,
    component: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    options: BuildOptions,
    trt_version: str,
    clock: Clock,
    head: str,
    say: Say,
) -> dict[str, Any]:
    """The manifest's entry about this engine, which is there if its status is "built"."""
    onnx = root / component["onnx"]["path"]
    for listed in _files(component):
        file = root / listed["path"]
        if not file.is_file() or file_digest(file) != listed["sha256"]:
            raise EngineError(f"{file} is not the file that was checked. Export again with --stage validate.")
    profiles = profiles_of(name, component["inputs"], options.limits)
    uses_plugins = name not in options.function_fallback
    key = engine_key(component, profiles, options.builder, trt_version, uses_plugins, options.architectures)
    plan = folder / f"{name}.plan"
    if before is not None and before.get("key") == key and before["status"] == "built":
        if plan.is_file() and file_digest(plan) == before["plan"]["sha256"]:
            say(f"{head}: nothing has changed since it was built")
            return dict(before)
        say(f"{head}: {plan.name} is missing or damaged")
    expected = component["num_mmfs_nodes"] if uses_plugins else {}
    say(f"{head} ...")

    def alive(seconds: float, phase: str) -> None:
        say(f"      {seconds:.0f} s, {phase}; {clock.left(name, seconds)}")

    with (
        tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch_name,
        library_folders(options.builder) as libraries,
    ):
        scratch = Path(scratch_name)
        log = scratch / "log"
        Request(
            builder=options.builder,
            onnx=str(onnx),
            plan=str(scratch / "plan"),
            log=str(log),
            profiles=tuple(profile.shapes(component["inputs"]) for profile in profiles),
            architectures=options.architectures,
            plugins=uses_plugins,
            # TensorRT-RTX compiles on the GPU that loads a plan, and has nothing to measure before.
            timing_cache=str(folder / TIMING_FILE) if options.builder == "tensorrt" else None,
        ).save(scratch / "request.json")
        try:
            built, looked = _run(scratch, alive, libraries)
            check_plugins(built, expected)
            inspector = _inspected(looked, expected)
        except (EngineError, ChildError) as error:
            plan.unlink(missing_ok=True)
            say(f"      failed: {error}")
            return {"status": "failed", "reason": str(error), "profiles": _profile_entries(profiles)}
        finally:
            messages = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            if log.exists():
                log.replace(folder / f"{name}.build.log")
        if "layers" in looked:
            (folder / f"{name}.layers.json").write_text(json.dumps(looked["layers"], indent=1))
        (scratch / "plan").replace(plan)
    entry = {
        "status": "built",
        "key": key,
        "plan": file_entry(plan, root),
        "builder": {"package": PACKAGES[options.builder], "version": trt_version},
        "built_on": f"{platform.system()} {platform.machine()}",
        "seconds": built["seconds"],
        "profiles": _profile_entries(profiles),
        "memory_bytes": memory_in_log(messages),
        "num_layers_parsed": built["num_layers"],
        "num_plugins": built["num_plugins_in_plan"],
        "mmfs_nodes": "plugins" if uses_plugins else "bodies of standard operators, asked for with --function-fallback",
        "machine_code": {
            "architectures": list(options.architectures) if built["num_plugins_in_plan"] else [],
            "sha256": built["machine_code_sha256"],
        },
        "requires": requirements(
            options.builder, list(options.architectures) if built["num_plugins_in_plan"] else [], nvrtc().version[0]
        ),
        "inspector": inspector,
        "executed": {"status": "not run", "reason": "export.trt builds engines and does not execute them"},
        "verified": {"status": "not run", "reason": "it was not executed"},
    }
    counted = ", ".join(f"{count} {operator} plugins" for operator, count in built["num_plugins_in_plan"].items())
    say(f"      {entry['plan']['bytes'] / 1e6:.1f} MB in {entry['seconds']:.0f} s; {counted or 'no plugins'}")
    return entry


def engine_key(
    component: Mapping[str, Any],
    profiles: Sequence[Profile],
    builder: str,
    trt_version: str,
    uses_plugins: bool,
    architectures: Sequence[str],
) -> str:
    """Digest of everything that a plan depends on."""
    has_plugins = uses_plugins and bool(component["num_mmfs_nodes"])
    return digest_of(
        {
            "onnx": [file["sha256"] for file in _files(component)],
            "profiles": _profile_entries(profiles),
            "builder": [builder, trt_version],
            "plugins": [sources_digest(SOURCES), *architectures, *nvrtc().version] if has_plugins else uses_plugins,
            "machine": platform.machine(),
        }
    )


def _files(component: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The graph and its weights, as the manifest lists them."""
    return [component["onnx"], *component["onnx"]["weights"]]


def check_plugins(built: Mapping[str, Any], expected: Mapping[str, int]) -> None:
    """Raise EngineError unless network and plan have exactly the expected plugins, by node type."""
    in_plan, num_layers = built["num_plugins_in_plan"], built["num_plugin_layers"]
    if in_plan != expected or num_layers != sum(expected.values()):
        raise EngineError(
            f"The network has {num_layers} plugin layers, and the plan holds the plugins {in_plan or 'none'}; "
            f"expected were {dict(expected) or 'none'}."
        )


def memory_in_log(messages: str) -> dict[str, int]:
    """What TensorRT says that an engine takes on a GPU: the most of any profile, and all weights."""
    found = {
        kind: [int(number) for number in re.findall(rf"Total {kind} Memory: (\d+) bytes", messages)]
        for kind in ("Activation", "Weights")
    }
    return {kind.lower(): max(numbers) for kind, numbers in found.items() if numbers}


def num_plugin_layers(layers: Mapping[str, Any]) -> int:
    """Plugin layers in the JSON of TensorRT's inspector, written with detailed profiling."""
    return sum("plugin" in str(layer.get("LayerType", "")).lower() for layer in layers["Layers"])


def _inspected(looked: Mapping[str, Any], expected: Mapping[str, int]) -> dict[str, Any]:
    if "error" in looked:
        return {"status": "not run", "reason": f"TensorRT could not load the plan here: {looked['error']}"}
    found, wanted = num_plugin_layers(looked["layers"]), sum(expected.values())
    if found != wanted:
        raise EngineError(f"The inspector finds {found} plugin layers in the engine; expected were {wanted}.")
    return {"status": "pass", "num_plugin_layers": found}


def _run(
    scratch: Path, alive: Callable[[float, str], None], libraries: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the process says about building and about inspecting."""
    died = None
    try:
        run_child("export.engine_process", [str(scratch / "request.json")], alive=alive, library_folders=libraries)
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


def _profile_entries(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    return [
        {"name": profile.name, "axes": {axis: list(sizes) for axis, sizes in profile.axes.items()}}
        for profile in profiles
    ]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the system lets go of it when this one ends, however it ends.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another process holds it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no directory {folder}. Expected what python -m export.trt writes.")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"Another process is writing into {folder}. Wait for it, or name another --out.") from None
    try:
        yield
    finally:
        os.close(descriptor)
