"""mmfs nodes in onnxruntime against PyTorch with the same kernel, in turns: the op, a layer, and an exported model.

    OMP_NUM_THREADS=1 pytest bench/bench_onnxruntime.py -s --threads 1

"times_faster" is PyTorch's time over onnxruntime's. Goals, with the custom operators and one thread: 0.91 of the op,
0.87 of a layer (so 1.1 and 1.15 times PyTorch's time at most), 1.0 of the toy model's tokens read and 1.6 of its images
drawn. The bodies of the nodes stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import mmfs.onnxruntime
from bench import measure
from bench.model_sides import time_both
from bench.workloads import LLM_LEVELS, SMOKE_LEVELS, UNET_LEVELS, WORKLOADS, Scale, pixel_centres
from export.measure import PYTORCH
from export.measure import measure as measure_models
from export.runtime import Session
from export.trt import main as export_main
from export.workload import Work
from models import MMInterleaved
from models.generation.state import GenerativeModel
from plugins_trt.onnx_function import attach_functions
from plugins_trt.onnx_node import translation_table

TOLERANCE = 1e-5
TOY = Path(__file__).parents[1] / "trainer" / "weights" / "toy"
ELEMENT_TYPES = {torch.float32: 1, torch.int64: 7}
ROUNDS = {"kernel": 30, "body": 5}


class Op(nn.Module):
    """One call of an op, with what does not change as constants."""

    def __init__(self, op: str, constants: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.constants = getattr(mmfs, op), constants

    def forward(self, **tensors: Tensor) -> Tensor:
        out = self.function(**tensors, **self.constants)
        assert isinstance(out, Tensor)
        return out


class BoundSession:
    """An exported module in onnxruntime on PyTorch's tensors, which it reads and writes where they are."""

    def __init__(self, module: nn.Module, inputs: dict[str, Tensor], folder: Path, nodes: str) -> None:
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            dynamo=True,
            custom_translation_table=translation_table(),
            verbose=False,
        )
        assert program is not None
        file = folder / "model.onnx"
        onnx.save(attach_functions(program.model_proto), file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        if nodes == "kernel":
            mmfs.onnxruntime.register(options)
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        with torch.no_grad():
            self.output = torch.empty_like(module(**inputs))
        self.kept = {name: tensor.contiguous() for name, tensor in inputs.items()}
        for name, tensor in self.kept.items():
            self.binding.bind_input(name, "cpu", 0, ELEMENT_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        (name,) = (one.name for one in self.session.get_outputs())
        self.binding.bind_output(name, "cpu", 0, 1, tuple(self.output.shape), self.output.data_ptr())

    def run(self) -> Tensor:
        self.session.run_with_iobinding(self.binding)
        return self.output


@pytest.fixture(params=["kernel", "body"])
def nodes(request: pytest.FixtureRequest, device: str) -> str:
    """Who computes the nodes in onnxruntime; skips where that does not run."""
    if device != "cpu":
        pytest.skip("the custom operators of onnxruntime compute on a CPU")
    if request.param == "kernel" and (reason := mmfs.onnxruntime.why_not()):
        pytest.skip(reason)
    return str(request.param)


def compare(
    module: nn.Module, inputs: dict[str, Tensor], folder: Path, nodes: str, benchmark: BenchmarkFixture, scale: Scale
) -> None:
    """Time a module in onnxruntime and in PyTorch."""
    session = BoundSession(module.eval().requires_grad_(False), inputs, folder, nodes)

    def of_pytorch() -> Tensor:
        with torch.no_grad():
            out = module(**inputs)
        assert isinstance(out, Tensor)
        return out

    error = measure.relative_error(session.run(), of_pytorch())
    assert error < TOLERANCE, f"onnxruntime is off by {error:.1e} of PyTorch"
    time_both(
        benchmark,
        session.run,
        of_pytorch,
        name=PYTORCH,
        rounds=1 if scale == "smoke" else ROUNDS[nodes],
        error=error,
        device="cpu",
    )
    benchmark.extra_info |= {"nodes": nodes, "num_threads": torch.get_num_threads(), "scale": scale}


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own exporter
@pytest.mark.parametrize(
    "workload", ["llm-prefill-3-images", "llm-decode-batch-1", "unet-32-images-1", "unet-64-images-1", "detr-decoder"]
)
def bench_op_in_onnxruntime(
    nodes: str, workload: str, benchmark: BenchmarkFixture, tmp_path: Path, scale: Scale, num_threads: int
) -> None:
    case = WORKLOADS[workload].at(scale)
    arguments = case.arguments(torch.float32, "cpu")
    tensors = {name: part.clone() for name, part in arguments.items() if isinstance(part, Tensor)}
    rest = {name: part for name, part in arguments.items() if name not in tensors}
    compare(Op(case.op, rest), tensors, tmp_path, nodes, benchmark, scale)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own exporter
@pytest.mark.parametrize("where", ["llm-512-tokens-4-images", "unet-64x64-1-image"])
def bench_layer_in_onnxruntime(
    nodes: str, where: str, benchmark: BenchmarkFixture, tmp_path: Path, scale: Scale, num_threads: int
) -> None:
    """A layer of the language model or of the U-Net, with the projected values of the images."""
    smoke, of_llm = scale == "smoke", where.startswith("llm")
    width = 1024 if of_llm else 320
    levels: Sequence[tuple[int, int]] = LLM_LEVELS if of_llm else UNET_LEVELS
    num_queries, num_images = (512, 4) if of_llm else (64 * 64, 1)
    if smoke:
        width, levels, num_queries, num_images = 16, SMOKE_LEVELS, 16, 2
    value_dim = 16 if smoke else 1024
    layer = mmfs.MMFS(width, width, spatial_shapes=levels, value_dim=value_dim, num_heads=4 if smoke else 16)
    side = int(num_queries**0.5)
    points = torch.full((1, num_queries, 2), 0.5) if of_llm else pixel_centres(side, side)[None]
    num_pixels = sum(h * w for h, w in levels)
    inputs = {
        "query": torch.randn(1, num_queries, width),
        "reference_points": points.contiguous(),
        "visible": torch.tensor([0, num_images]).repeat(1, num_queries, 1),
        "values": torch.randn(num_images, num_pixels, layer.num_heads, value_dim // layer.num_heads),
    }
    compare(layer, inputs, tmp_path, nodes, benchmark, scale)


@pytest.fixture(scope="module")
def exported_toy(tmp_path_factory: pytest.TempPathFactory, device: str) -> Path:
    if device != "cpu":
        pytest.skip("the custom operators of onnxruntime compute on a CPU")
    root = tmp_path_factory.mktemp("toy") / "export"
    assert export_main([str(TOY), "--out", str(root)]) == 0
    return root


def bench_toy_in_onnxruntime(
    exported_toy: Path, nodes: str, benchmark: BenchmarkFixture, scale: Scale, num_threads: int, monkeypatch: Any
) -> None:
    """What `python -m export.bench` measures of the shipped weights."""
    if nodes == "body":
        monkeypatch.setattr(mmfs.onnxruntime, "FOLDER", exported_toy)  # which holds no library
    models: dict[str, GenerativeModel] = {
        PYTORCH: MMInterleaved.from_pretrained(TOY),
        "ort": Session.open(exported_toy, "ort"),
    }
    work = Work(rounds=1) if scale == "smoke" else Work(rounds=9)
    found: dict[tuple[str, str], float] = {}

    def run() -> None:
        for one in measure_models(models, torch.device("cpu"), work, lambda line: None):
            assert one.relative_error < 1e-3
            found[one.what, one.implementation] = one.per_s

    once: Callable[[], None] = run
    benchmark.pedantic(once, rounds=1)
    for what in ("tokens read", "tokens written", "images drawn"):
        benchmark.extra_info[what] = found[what, "ort"] / found[what, PYTORCH]
    benchmark.extra_info |= {"nodes": nodes, "num_threads": torch.get_num_threads(), "scale": scale}
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
