"""One engine, in a process of its own: `python -m export.engine.build_process REQUEST.json`.

TensorRT keeps gigabytes, and an error inside it can end the process; here that costs one engine. It prints the
phases of the builder, a line each; the results are in two files beside the request.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import TensorProto, helper

from models.atomic_files import write_atomically
from models.write_errors import WriteError, writing
from plugins_trt.plugin_kinds import PluginKind, open_plugin_kind
from plugins_trt.tensorrt_package import open_package

BUILT_FILE = "built.json"
INSPECTED_FILE = "inspected.json"
HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
NUM_LOGGED_ERRORS = 3
"""That the result repeats; the log has all."""


@dataclass(frozen=True)
class Request:
    """What to build; paths as the process sees them."""

    builder: str
    onnx: str
    plan: str
    """Where to write it."""

    log: str
    """Where to write what TensorRT says."""

    profiles: tuple[dict[str, Any], ...]
    """Per profile: least, usual and largest shape by name of the input."""

    architectures: tuple[str, ...]
    """For which the plugins' kernels are compiled."""

    plugins: str | None
    """One of `plugins_trt.kinds.PLUGIN_KINDS`; None: no plugins: the parser takes the bodies of the nodes."""

    plugin_library: str | None = None
    """The file of the C++ plugin, where that is the plugin kind."""

    timing_cache: str | None = None
    """Where the builder keeps how fast its tactics were; None: nowhere."""

    def save(self, file: Path) -> None:
        """As JSON."""
        write_atomically(file, json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Request:
        """What `save` wrote."""
        return cls(**json.loads(file.read_text()))


class BuilderError(RuntimeError):
    """TensorRT refused."""


def main(arguments: Sequence[str]) -> None:
    """Do what the request says; where TensorRT refuses, the result is {"error": why}."""
    (file,) = map(Path, arguments)
    request = Request.load(file)
    with Path(request.log).open("w", encoding="utf-8") as stream:
        trt = open_package(request.builder)
        log = _log(trt, stream)
        try:
            built = build(request, trt, log, _plugins(request, trt))
        except (RuntimeError, WriteError) as error:
            _write(file.with_name(BUILT_FILE), {"error": str(error)})
            return
        _write(file.with_name(BUILT_FILE), built)
        # Last, because without a GPU this may end the process.
        _write(file.with_name(INSPECTED_FILE), inspect(request, trt, log))


def _plugins(request: Request, trt: ModuleType) -> PluginKind | None:
    if request.plugins is None:
        return None
    library = Path(request.plugin_library) if request.plugin_library is not None else None
    return open_plugin_kind(request.plugins, trt, request.architectures, library)


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(content))


def build(request: Request, trt: ModuleType, log: Any, plugins: PluginKind | None) -> dict[str, Any]:
    """Parse a graph and write its plan.

    Returns:
        seconds; num_layers and num_plugin_layers of the parsed network; num_plugins_in_plan by node type, None where
        the plugin kind cannot tell; machine_code_sha256, of each set of kernels in the plan.

    Raises:
        BuilderError: with TensorRT's message.
    """
    builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags | (plugins.network_flags if plugins is not None else 0))
    parser = trt.OnnxParser(network, log)
    print("parsing", flush=True)
    if not parser.parse(graph_for_tensorrt(Path(request.onnx)), request.onnx):
        found = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise BuilderError(f"The parser refused the graph: {' '.join(found) or log.last_errors()}")
    layers = [network.get_layer(number).type for number in range(network.num_layers)]
    config = builder.create_builder_config()
    if plugins is not None and trt.LayerType.PLUGIN_V3 in layers:
        plugins.configure(config)
    set_flags(config, trt, request.builder)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then tells plugins from the rest
    if request.timing_cache is not None:
        load_timing_cache(config, Path(request.timing_cache))
    monitor = _monitor(trt)
    config.progress_monitor = monitor
    for shapes in request.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, largest) in shapes.items():
            profile.set_shape(name, least, usual, largest)
        if config.add_optimization_profile(profile) < 0:
            raise BuilderError(f"TensorRT refused the profile {shapes}: {log.last_errors()}")
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuilderError(f"TensorRT could not build the engine: {log.last_errors()}")
    with writing(Path(request.plan), memoryview(plan).nbytes):
        Path(request.plan).write_bytes(plan)
    if request.timing_cache is not None:
        save_timing_cache(config, Path(request.timing_cache))
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "num_layers": len(layers),
        "num_plugin_layers": layers.count(trt.LayerType.PLUGIN_V3),
        "num_plugins_in_plan": plugins.num_in_plan() if plugins is not None else {},
        "machine_code_sha256": plugins.sha256() if plugins is not None and trt.LayerType.PLUGIN_V3 in layers else [],
    }


def graph_for_tensorrt(file: Path) -> bytes:
    """A graph as the parser takes it; its weights are still beside the file.

    TensorRT's Attention takes no `softmax_precision`: its kernels choose the type of their sums. It has no kernel for
    float32, and uses other operators only if an attribute allows it, which every other reader of ONNX refuses.
    """
    proto = onnx.load(file, load_external_data=False)
    narrow = {port.type.tensor_type.elem_type for port in proto.graph.input} & HALVES
    for node in proto.graph.node:
        if node.op_type == "Attention" and not node.domain:
            kept = [attribute for attribute in node.attribute if attribute.name != "softmax_precision"]
            del node.attribute[:]
            node.attribute.extend(kept if narrow else [*kept, helper.make_attribute("TRT_decomposable", 1)])
    return proto.SerializeToString()


def set_flags(config: Any, trt: ModuleType, builder: str) -> None:
    """The settings of every engine."""
    # The tolerances are for true float32; TensorFloat-32 has a mantissa of ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if builder == "rtx":
        # Without it an engine may reserve memory while it runs, which a CUDA graph cannot record.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def load_timing_cache(config: Any, file: Path) -> None:
    """Give the builder the timings of earlier builds; damaged ones and those of another GPU are ignored."""
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, file: Path) -> None:
    """Keep the timings of this build for the next one."""
    write_atomically(file, bytes(config.get_timing_cache().serialize()))


def inspect(request: Request, trt: ModuleType, log: Any) -> dict[str, Any]:
    """Load the plan and list its layers.

    Returns:
        layers: the inspector's JSON; or error: TensorRT's message.
    """
    log.errors.clear()
    engine = trt.Runtime(log).deserialize_cuda_engine(Path(request.plan).read_bytes())
    if engine is None:
        return {"error": log.last_errors()}
    inspector = engine.create_engine_inspector()
    return {"layers": json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))}


def _log(trt: ModuleType, stream: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            if severity <= trt.ILogger.Severity.INFO:
                stream.write(f"{severity.name} {message}\n")
                stream.flush()

        def last_errors(self) -> str:
            return " ".join(self.errors[:NUM_LOGGED_ERRORS]) or "it gave no reason."

    return Log()


def _monitor(trt: ModuleType) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            print(phase_name[:1].lower() + phase_name[1:], flush=True)

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    return Monitor()


if __name__ == "__main__":
    main(sys.argv[1:])
