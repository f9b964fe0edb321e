"""What is deployed: steps recorded as CUDA graphs, the plugin's launches, and engines where they run.

Steps are compared with the same step run operator by operator before anything is timed, launches with the float64
reference. With --smoke all that needs no GPU runs tiny on any machine.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mmfs
from bench import measure
from bench.workloads import WORKLOADS, Arguments, MMFSAttentionWorkload, Scale
from export.engine.compatibility import IncompatibleExport
from export.runtime import Session
from export.runtime.drawing import DrawnImage
from export.runtime.generation_state import ExportedGenerationState
from export.runtime.memory import Memory
from export.runtime.recorded import Recorded
from export.runtime.tensorrt_runner import TensorRTError
from export.runtime.value_pool import ValuePool
from export.trt import main as export_main
from export.validate.end_to_end import compare
from models import MMInterleaved, MMInterleavedConfig
from models.denoising_options import Denoising
from plugins_trt.driver import driver
from plugins_trt.launches import Address, instances_of, launches, workspace_bytes
from plugins_trt.machine_code import compile_ahead
from plugins_trt.node_contract import INPUTS, Node
from plugins_trt.tensorrt_package import why_not

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of a step against itself, recorded or compiled: other kernels round otherwise."""

LAUNCH_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
NUM_IMAGES = 4
BUDGET_S = 2.0
TOY = Path(__file__).parents[1] / "trainer" / "weights" / "toy"


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def reading_of(scale: Scale, device: str) -> ExportedGenerationState:
    """A reading with random weights: 7B of LLaMA, CLIP-L and the U-Net of SD 2.1 in bfloat16; elsewhere tiny."""
    config = MMInterleavedConfig.tiny()
    if scale == "full":
        config = MMInterleavedConfig.released_13b()
        language_model = dataclasses.replace(
            config.language_model, transformer={**config.language_model.transformer, **LLAMA_7B}
        )
        config = dataclasses.replace(config, language_model=language_model)
    torch.manual_seed(0)
    with torch.device(device):
        model = MMInterleaved(config).eval().requires_grad_(False)
    if scale == "full":
        model = model.to(torch.bfloat16)
    return Session.of(model, device=device).begin_generation(1)


def decoding(scale: Scale, device: str) -> tuple[Recorded, Callable[[], None], Callable[[], Tensor]]:
    """One token behind others and four images: the step, what makes it the same every time, and its result."""
    memory = reading_of(scale, device).memory
    num_tokens = 1024 if scale == "full" else 8
    _look_at_images(memory, memory.seen)
    cache = memory.cache(1, 2 * num_tokens)
    cache.ids.fill_(5)
    cache.counts.fill_(1)
    cache.visible.copy_(torch.tensor([[[0, NUM_IMAGES]]]))

    def again() -> None:
        cache.lengths.fill_(num_tokens)

    return cache.step, again, lambda: cache.logits.clone()


def denoising(scale: Scale, device: str) -> tuple[Recorded, Callable[[], None], Callable[[], Tensor]]:
    """One guided step of one image that sees the image before it."""
    memory = reading_of(scale, device).memory
    _look_at_images(memory, memory.drawn_from)
    how = Denoising(num_inference_steps=30, guidance_scale=3.5)
    drawing = memory.drawing(1, how.num_predictions)
    generator = torch.Generator().manual_seed(0)
    condition = {name: torch.randn(rows.shape, generator=generator) for name, rows in drawing.condition.items()}
    noise, nothing = torch.randn(drawing.latents.shape[1:], generator=generator), torch.zeros(drawing.latents.shape[1:])

    def again() -> None:
        drawing.load(
            [DrawnImage(0, condition, how, generator, noise, nothing, nothing)], [(NUM_IMAGES - 1, NUM_IMAGES)]
        )

    return drawing.step, again, lambda: drawing.latents.clone()


def _look_at_images(memory: Memory, pool: ValuePool) -> None:
    """Put images of noise into a pool."""
    size = memory.runners["image_tokenizer"].inputs["pixel_values"].shape[1:]
    pixels = torch.rand(NUM_IMAGES, *map(int, size), generator=torch.Generator().manual_seed(0))
    pool.clear()
    features = memory.runners["image_tokenizer"](pixel_values=pixels)["ms_features"]
    pool.add(features, [0] * NUM_IMAGES)
    assert pool.range_of(0) == (0, NUM_IMAGES)


STEPS = {"decode-7b": decoding, "denoise-sd21": denoising}


@pytest.fixture
def step(workload: str, implementation: str, scale: Scale, device: str) -> tuple[Callable[[], None], float]:
    """The step to time and its error, relative to the same operator by operator; skips where it does not run."""
    if device == "cpu" and scale != "smoke":
        pytest.skip("a step of this size needs a GPU")
    if device == "cpu" and implementation == "compiled":
        pytest.skip("compiling takes minutes on a CPU and says nothing about a GPU")
    recorded, again, result = STEPS[workload](scale, device)
    compiled = torch.compile(recorded.function) if implementation == "compiled" else recorded.function
    function = recorded if implementation == "recorded" else compiled

    @torch.no_grad()
    def run() -> None:
        again()
        function()

    with torch.no_grad():
        again()
        recorded.function()
        exact = result()
    run()
    run()  # recorded by now
    error = measure.relative_error(result(), exact)
    dtype = torch.bfloat16 if scale == "full" else torch.float32
    if not error <= TOLERANCE[dtype]:
        pytest.fail(f"{workload}, {implementation}, is off by {error:.1e} of the same step run operator by operator")
    return run, error


# Fixtures that skip stand before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["eager", "compiled", "recorded"])
@pytest.mark.parametrize("workload", STEPS)
def bench_step(
    step: tuple[Callable[[], None], float],
    benchmark: BenchmarkFixture,
    workload: str,
    implementation: str,
    scale: Scale,
    device: str,
) -> None:
    run, error = step
    _time(benchmark, run, error, workload, implementation, "bfloat16" if scale == "full" else "float32", scale, device)


@pytest.fixture
def plugin_launch(workload: str, dtype: torch.dtype, scale: Scale, device: str) -> tuple[Callable[[], None], float]:
    """A plugin's call, as an engine makes it: machine code compiled ahead, launched with the bytes that we pack."""
    if reason := mmfs.why_not_cuda(torch.empty(0, dtype=dtype, device=device)):
        pytest.skip(reason)
    case = WORKLOADS[workload].at(scale)
    assert isinstance(case, MMFSAttentionWorkload)
    arguments = case.arguments(dtype, device)
    sizes = [size for shape in arguments["spatial_shapes"] for size in shape]
    node = Node("MMFS", tuple(sizes), arguments["null_logit"])
    heads, channels = arguments["value"].shape[2:]
    tensors = {**arguments, "null_value": torch.zeros(heads, channels, dtype=dtype, device=device)}
    inputs = [tensors[name].contiguous() for name in INPUTS["MMFS"]]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    output = torch.full((*shapes[1][:2], heads * channels), math.nan, dtype=dtype, device=device)
    workspace = torch.empty(max(1, workspace_bytes(node, shapes, dtype)), dtype=torch.uint8, device=device)
    gpu = driver().current_gpu()
    major, minor = gpu.capability
    code = compile_ahead(instances_of(node, channels, dtype), (f"sm_{major}{minor}",))
    packed = launches(
        node,
        shapes,
        [Address(tensor.data_ptr(), tensor.dtype) for tensor in inputs],
        Address(output.data_ptr(), dtype),
        workspace.data_ptr(),
        gpu.num_sms,
    )

    def run() -> None:
        for launch in packed:
            gpu.launch(code, launch, torch.cuda.current_stream().cuda_stream)

    run()
    wide: Arguments = {
        name: argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
        for name, argument in arguments.items()
    }
    error = measure.relative_error(output, mmfs.mmfs_attention(**wide, backend="reference"))
    if not error <= LAUNCH_TOLERANCE[dtype]:
        pytest.fail(f"the plugin's launch is off by {error:.1e} of the float64 reference on {workload}")
    return run, error


@pytest.mark.gpu
@pytest.mark.parametrize(
    "workload", [name for name, case in WORKLOADS.items() if isinstance(case, MMFSAttentionWorkload)]
)
def bench_plugin_launch(
    plugin_launch: tuple[Callable[[], None], float],
    benchmark: BenchmarkFixture,
    workload: str,
    dtype: torch.dtype,
    scale: Scale,
    device: str,
) -> None:
    run, error = plugin_launch
    _time(benchmark, run, error, workload, "plugin", str(dtype).removeprefix("torch."), scale, device)


@pytest.fixture
def rtx_session(device: str, tmp_path: Path) -> Session:
    """The shipped weights as TensorRT-RTX engines on this GPU; skips with what TensorRT says where they do not load."""
    if device != "cuda":
        pytest.skip("an engine runs on an NVIDIA GPU only")
    if reason := why_not("rtx"):
        pytest.skip(reason)
    root = tmp_path / "export"
    assert export_main([str(TOY), "--out", str(root), "--stage", "build", "--builder", "rtx"]) == 0
    try:
        return Session.open(root, "rtx")
    except (IncompatibleExport, TensorRTError) as error:
        pytest.skip(f"TensorRT-RTX on {torch.cuda.get_device_name()}: {error}")


@pytest.mark.gpu
def bench_rtx_engines(rtx_session: Session, benchmark: BenchmarkFixture, scale: Scale, device: str) -> None:
    """Text and an image from engines alone."""
    document, options = ["a snail left of a rocket"], {"max_new_tokens": 12, "num_inference_steps": 8}
    model = MMInterleaved.from_pretrained(TOY)
    difference = compare(model.generate(document, **options), rtx_session.generate(document, **options))
    assert difference is None, difference

    def run() -> None:
        rtx_session.generate(document, **options)

    _time(benchmark, run, 0.0, "toy-document", "rtx", "float32", scale, device)


def _time(
    benchmark: BenchmarkFixture,
    run: Callable[[], None],
    error: float,
    workload: str,
    implementation: str,
    dtype: str,
    scale: Scale,
    device: str,
) -> None:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def timed() -> None:
        run()
        wait()

    start_s = time.perf_counter()
    peak_bytes = measure.peak_memory_bytes(timed, device)
    call_s = time.perf_counter() - start_s
    benchmark.group = f"{workload} deployed"
    benchmark.extra_info |= {
        "workload": workload,
        "direction": "deployed",
        "implementation": implementation,
        "num_threads": torch.get_num_threads(),
        "num_calls": 1,
        "scale": scale,
        "dtype": dtype,
        "locations": "–",
        "relative_error": error,
        "peak_memory_bytes": peak_bytes,
    }
    benchmark.pedantic(timed, rounds=min(50, max(2, int(BUDGET_S / call_s))))
