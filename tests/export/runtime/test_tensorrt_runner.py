"""The engines' back end with a stand-in for TensorRT, which has the calls that we make and computes with onnxruntime.

It shows which profile is chosen, what is padded, split and read in chunks, and that addresses are right. It says
nothing about TensorRT: no engine has been executed.
"""

import ctypes
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.components.component import Component
from export.components.profiles import Limits
from export.engine.compatibility import Machine, here, kernels_digest, requirements
from export.engine.profiles import profiles_of
from export.graph.kv_cache import aliases_of, lower_attention, with_kv_cache_layout
from export.runtime import Session
from export.runtime.runners import tensorrt_runners
from export.runtime.tensorrt_runner import Loader, TensorRTError, TensorRTRunner
from export.store.entries import file_entry, port_entries
from export.store.job import NEUTRAL_DIR
from export.store.manifest import Manifest, read_manifest, write_manifest
from export.validate.end_to_end import compare
from export_manifests import an_engine, no_engine
from models import MMInterleaved
from models.images.image_file import open_image

CPU = torch.device("cpu")
ALIGNMENT = 64
"""What PyTorch's allocator for the CPU keeps; TensorRT wants 256, which that for GPUs keeps."""

NUM_BYTES = 1000
"""That every engine wants for its contexts."""

VERSION = "1.0"
LIMITS = Limits(max_batch=2, max_tokens=7, max_past=100, max_images=4)
MACHINE = Machine(here(), VERSION, (8, 6), 580, kernels_digest())


class Context:
    """Of one engine and profile."""

    def __init__(self, engine: "Engine", is_eager: bool) -> None:
        self.engine = engine
        self.is_eager = is_eager
        self.number = 0
        self.num_shapes_set = 0
        self.memory = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.number = number
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= NUM_BYTES
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.number][name]
        self.shapes[name] = shape
        self.num_shapes_set += 1
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % ALIGNMENT == 0

    def execute_async_v3(self, stream: int) -> bool:
        if not self.memory:
            return False
        self.engine.runs.append({name: list(shape) for name, shape in self.shapes.items()})
        feeds = {}
        for port in self.engine.session.get_inputs():
            kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[port.type]
            shape = self.shapes[port.name]
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            memory = ctypes.string_at(self.addresses[port.name], size)
            feeds[port.name] = np.frombuffer(memory, kind).reshape(shape)
        names = [port.name for port in self.engine.session.get_outputs()]
        aliases = aliases_of(names)
        if any(self.addresses[name] != self.addresses[past] for name, past in aliases.items()):
            return False  # TensorRT updates a cache where it is
        for name, array in zip(names, self.engine.session.run(names, feeds), strict=True):
            data = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(self.addresses[name], data, len(data))
        return True


class Engine:
    """A plan here is a file's name and its profiles."""

    def __init__(self, plan: bytes) -> None:
        described = json.loads(plan)
        self.session = onnxruntime.InferenceSession(described["onnx"], providers=["CPUExecutionProvider"])
        self.profiles = described["profiles"]
        self.runs: list[dict[str, list[int]]] = []
        self.contexts: list[Context] = []

    device_memory_size_v2 = NUM_BYTES

    def create_runtime_config(self) -> "RuntimeConfig":
        return RuntimeConfig()

    def create_execution_context(self, config: "RuntimeConfig") -> Context | None:
        if config.strategy != "user managed":
            return None  # as TensorRT-RTX does with engines that may not reserve memory while they run
        self.contexts.append(Context(self, config.dynamic_shapes_kernel_specialization_strategy == "eager"))
        return self.contexts[-1]


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"
    strategy = "static"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class Logger:
    Severity = SimpleNamespace(ERROR=1)


def stand_in() -> Any:
    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if plan.startswith(b"{"):
                return Engine(plan)
            self.log.log(1, "no such engine")
            return None

    registered: set[str] = set()

    def register(creator: Any, namespace: str) -> bool:
        is_new = creator.name not in registered
        registered.add(creator.name)
        return is_new

    trt: Any = ModuleType("tensorrt_rtx")
    trt.__version__ = VERSION
    trt.ILogger = Logger
    trt.Runtime = Runtime
    trt.IPluginCreatorV3One = object
    trt.PluginField = lambda name: name
    trt.PluginFieldCollection = list
    trt.get_plugin_registry = lambda: SimpleNamespace(register_creator=register, registered=registered)
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    return trt


@pytest.fixture
def engines(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export with a plan of each component."""
    root = tmp_path / "engines"
    shutil.copytree(exported, root)
    manifest = read_manifest(root)
    (root / "plans").mkdir()
    for name in manifest.components:
        add_plan(root, manifest, name)
    write_manifest(root, manifest)
    return root


def add_plan(root: Path, manifest: Manifest, name: str) -> None:
    """Of the component as the manifest describes it."""
    entry = manifest.components[name]
    profiles = profiles_of(name, entry.input_shapes(), LIMITS)
    plan = root / "plans" / f"{name}.plan"
    shapes = [profile.shapes(entry.input_shapes()) for profile in profiles]
    plan.write_text(json.dumps({"onnx": str(root / entry.onnx.file.path), "profiles": shapes}))
    entry.engines[f"rtx-{VERSION}"] = an_engine(
        plan=file_entry(plan, root),
        limits=LIMITS,
        profiles=tuple(profiles),
        requires=requirements("rtx", "python", ["sm_80", "compute_80"], (13, 0)),
    )


@pytest.fixture
def in_place(engines: Path, components: dict[str, Component]) -> None:
    """Let the language model's engine write into its cache."""
    manifest = read_manifest(engines)
    neutral = onnx.load(engines / NEUTRAL_DIR / "llm.onnx")
    onnx.save(lower_attention(neutral, "trt_native", LIMITS.max_past), engines / "onnx/llm.onnx")
    llm = with_kv_cache_layout(components["llm"], "trt_native", LIMITS.max_past)
    ports = {"inputs": port_entries(llm.inputs), "outputs": port_entries(llm.outputs)}
    manifest.components["llm"] = replace(manifest.components["llm"], **ports)
    add_plan(engines, manifest, "llm")
    write_manifest(engines, manifest)


@pytest.fixture
def open_engines(engines: Path) -> Callable[..., Session]:
    def opened(model: MMInterleaved | None = None) -> Session:
        return Session(*tensorrt_runners(engines, "rtx", stand_in(), MACHINE, CPU, model))

    return opened


@pytest.mark.own_allocator
def test_engines_write_and_draw_what_the_model_does(
    open_engines: Callable[..., Session], unchanged_model: MMInterleaved, model_dir: Path
) -> None:
    session = open_engines()
    options = {"max_new_tokens": 6, "max_new_images": 1, "num_inference_steps": 3, "seed": 5, "guidance_scale": 3.0}
    documents = [["draw"], ["a text of more tokens than one call takes, by far"], ["draw", "draw"]]
    both = zip(unchanged_model.generate(documents, **options), session.generate(documents, **options), strict=True)
    assert [compare(expected, found) for expected, found in both] == [None] * 3

    runs = session.runners["llm"].engine.runs  # type: ignore[attr-defined]
    sizes = [run["inputs_embeds"][:2] for run in runs]
    assert max(batch for batch, _ in sizes) == 2, "three documents in two runs"
    assert max(tokens for _, tokens in sizes) == 7, "a long text in chunks"
    contexts = session.runners["llm"].engine.contexts  # type: ignore[attr-defined]
    assert {(context.number, context.is_eager) for context in contexts} >= {(0, True), (1, False)}
    recorded = [context for context in contexts if context.is_eager]
    assert all(context.num_shapes_set == len(context.shapes) for context in recorded), "what is recorded stays as it is"
    assert len({context.memory for context in contexts}) == 1, "and takes no memory of its own"
    drawn = session.runners["unet_mmfs"].engine.runs  # type: ignore[attr-defined]
    assert {tuple(run["sample"][:1] + run["unet_mmfs_value_0"][:1]) for run in drawn} == {(4, 4)}, "static"


@pytest.mark.own_allocator
@pytest.mark.usefixtures("in_place")
def test_a_cache_is_written_where_it_is(
    open_engines: Callable[..., Session], unchanged_model: MMInterleaved, model_dir: Path
) -> None:
    session = open_engines()
    llm = session.runners["llm"]
    options = {"max_new_tokens": 6, "max_new_images": 1, "num_inference_steps": 2, "seed": 5}
    seen = open_image(model_dir / "samples/0.png")
    documents = [["draw"], [seen, "a text of more tokens than one call takes, by far"], ["draw", "draw"]]
    for _ in range(2):  # the second time in memory that holds what the first one left
        found = session.generate(documents, **options)
        both = zip(unchanged_model.generate(documents, **options), found, strict=True)
        assert [compare(expected, written) for expected, written in both] == [None] * 3

    sizes = {"batch": 3, "tokens": 1, "images": 1}
    inputs = {
        name: torch.zeros([size if isinstance(size, int) else sizes[size] for size in port.shape], dtype=port.dtype)
        for name, port in llm.inputs.items()
    }
    inputs["inputs_embeds"] += 1
    outputs = llm(**inputs)
    for present, past in llm.aliases.items():
        assert outputs[present].data_ptr() == inputs[past].data_ptr(), "three documents in two runs"
        assert inputs[past][:, :, 0].flatten(1).any(dim=1).all(), "each has its row"
        assert not inputs[past][:, :, 1:].any()


@pytest.mark.own_allocator
def test_no_more_images_than_there_are_slots(open_engines: Callable[..., Session]) -> None:
    noise = [torch.rand(3, 32, 32) for _ in range(5)]
    with pytest.raises(ValueError, match="hold 5 images; the engines were built for 4"):
        open_engines().generate(noise, mode="text", max_new_tokens=1)


def test_no_more_tokens_than_the_engine_keeps(open_engines: Callable[..., Session]) -> None:
    with pytest.raises(ValueError, match="and the engine of the language model keeps 100"):
        open_engines().generate(["word " * 110], mode="text", max_new_tokens=1)


def test_an_axis_that_an_engine_does_not_have_is_named(open_engines: Callable[..., Session]) -> None:
    with pytest.raises(ValueError, match=r"The engine of llm has no dynamic axis rows\. Expected batch or .* tokens\."):
        open_engines().runners["llm"].most("rows")


def test_a_plan_that_does_not_load_is_refused_in_its_own_words(
    engines: Path, open_engines: Callable[..., Session]
) -> None:
    plan = engines / "plans" / "llm.plan"
    plan.write_bytes(b"?")
    manifest = read_manifest(engines)
    manifest.components["llm"].engines[f"rtx-{VERSION}"] = an_engine(plan=file_entry(plan, engines))
    write_manifest(engines, manifest)
    with pytest.raises(TensorRTError, match="tensorrt_rtx does not load the engine of llm: no such engine"):
        open_engines()


@pytest.mark.own_allocator
def test_what_was_left_to_pytorch_needs_the_model(
    engines: Path, open_engines: Callable[..., Session], model: MMInterleaved
) -> None:
    manifest = read_manifest(engines)
    left = no_engine("not built", "left to PyTorch with --torch-fallback")
    manifest.components["vae_decoder"].engines[f"rtx-{VERSION}"] = left
    write_manifest(engines, manifest)
    with pytest.raises(ValueError, match="vae_decoder was left to PyTorch with --torch-fallback, which"):
        open_engines()
    del manifest.components["context_resampler"]  # it has no graph either
    write_manifest(engines, replace(manifest, left_to_pytorch=("context_resampler",)))
    with pytest.raises(ValueError, match="vae_decoder, context_resampler was left to PyTorch"):
        open_engines()
    options = {"mode": "image", "num_inference_steps": 2}
    assert compare(model.generate(["draw"], **options), open_engines(model).generate(["draw"], **options)) is None


@pytest.mark.parametrize(
    ("plugin_kinds", "num_registered", "host_code"),
    [({"aot"}, 0, False), ({"python", "aot"}, 3, False), ({"library"}, 0, True), (set(), 0, False)],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else None,
)
def test_a_tensorrt_gets_what_the_plugin_kinds_of_its_plans_need(
    plugin_kinds: set[str], num_registered: int, host_code: bool
) -> None:
    trt = stand_in()
    loaders = [Loader(trt, plugin_kinds) for _ in range(2)]
    assert len(trt.get_plugin_registry().registered) == num_registered, "once in a process"
    assert all(hasattr(loader.runtime, "engine_host_code_allowed") == host_code for loader in loaders)


@pytest.mark.own_allocator
def test_what_tensorrt_does_not_say_yes_to_is_refused(open_engines: Callable[..., Session]) -> None:
    runner = open_engines().runners["context_resampler"]
    assert isinstance(runner, TensorRTRunner)
    sizes = {axis: least for axis, (least, _, _) in runner.profiles[0].axes.items()}
    inputs = {
        name: torch.zeros([size if isinstance(size, int) else sizes[size] for size in port.shape], dtype=port.dtype)
        for name, port in runner.inputs.items()
    }
    runner.run(inputs)
    ((_, context),) = runner.contexts.items()
    context.execution.memory = 0
    with pytest.raises(TensorRTError, match=r"context_resampler did not run: it gave no reason\."):
        runner.run(inputs)
    context.execution.set_tensor_address = lambda name, address: False
    with pytest.raises(TensorRTError, match="context_resampler refuses the address of "):
        runner.run(inputs)
