"""mmfs.cuda: what can be said without a GPU, and on a GPU both ops against the specification."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from emulated_calls import assert_agrees, run_mmfs_attention, run_ms_deform_attn
from mmfs import autograd, compiled, cuda, embedding_bag
from mmfs.arguments import MMFSAttentionArguments, MMFSAttentionGradients, MSDeformAttnArguments
from mmfs.kernels import calls, launch, nvrtc, value_gradient
from mmfs.kernels.launch import CudaDevice
from mmfs.kernels.plan import Channels, plan_rows, plan_splits, share_channels
from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference
from numerics import assert_within_error_budget
from op_cases import NOT_SQUARE, Case, arguments_of, mmfs_attention_case, ms_deform_attn_case

FLAT = [side for size in NOT_SQUARE for side in size]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_value_on_the_cpu_is_refused_with_the_reason() -> None:
    assert cuda.why_not(torch.zeros(1, 1, 1, 1)) == "value is on cpu"
    with pytest.raises(ValueError, match="value is on cpu"):
        cuda.warmup(64, device="cpu")


def test_warmup_without_a_cuda_device_names_the_ways_out() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    sentence = "device is cuda, but PyTorch sees no CUDA device here. Leave warmup out, or install PyTorch with CUDA."
    with pytest.raises(ValueError, match=sentence):
        cuda.warmup(64)


def test_importing_the_cuda_side_imports_no_cupy() -> None:
    code = "import sys, mmfs.cuda; print('cupy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


class OfCuda:
    """What is asked of a tensor on a GPU."""

    is_cuda = True
    dtype = torch.float32
    device = torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [((7, 5), "the GPU has compute capability 7.5, and mmfs's CUDA kernels need 8.0 or later"), ((8, 0), None)],
)
def test_a_gpu_that_is_too_old_is_refused_with_the_reason(
    capability: tuple[int, int], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: asked.append(index) or capability)
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: "libnvrtc.so.12")
    launch.why_not_launch.cache_clear()
    value: Any = OfCuda()
    assert cuda.why_not(value) == sentence
    assert asked == [1], "of the tensor's own device"
    assert autograd.implementation(value) is (embedding_bag if sentence else cuda)
    launch.why_not_launch.cache_clear()


def test_pytorch_for_rocm_computes_without_the_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a device is called cuda, and its capability is that of an AMD GPU."""
    monkeypatch.setattr(torch.version, "hip", "6.4.0")
    value: Any = OfCuda()
    assert cuda.why_not(value) == "this PyTorch is one for ROCm, and the CUDA kernels need an NVIDIA GPU"
    assert autograd.implementation(value) is embedding_bag


@pytest.mark.parametrize("device", ["mps:0", "xpu:1"])
def test_a_device_without_kernels_computes_with_pytorchs_operators(device: str) -> None:
    value: Any = SimpleNamespace(is_cuda=False, dtype=torch.float32, device=torch.device(device))
    assert compiled.why_not(value) == cuda.why_not(value) == f"value is on {device}"
    assert autograd.implementation(value) is embedding_bag


class Driver:
    """Stands for PyTorch's and CuPy's several GPUs: each has a stream, and one of them is the current device."""

    def __init__(self) -> None:
        self.current = 0
        self.loaded: list[int] = []
        self.launched: list[tuple[int, int, int]] = []  # where the function was loaded, device, stream

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        before, self.current = self.current, index
        yield
        self.current = before

    def current_stream(self) -> Any:
        return SimpleNamespace(cuda_stream=100 + self.current)

    @contextmanager
    def external_stream(self, stream: int, index: int) -> Iterator[None]:
        assert index == self.current
        self.stream = stream
        yield

    def module(self, path: str) -> Any:
        assert Path(path).read_bytes() == b"of sm_90"
        index = self.current
        self.loaded.append(index)

        class Function:
            compile = staticmethod(lambda: None)

            def __call__(function, *_: Any, **__: Any) -> None:
                self.launched.append((index, self.current, self.stream))

        return SimpleNamespace(get_function=lambda name: Function())


def test_a_launch_is_on_the_device_and_stream_of_its_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs, whichever is current; afterwards the same one is."""
    pytest.importorskip("numpy")
    driver = Driver()
    properties = SimpleNamespace(multi_processor_count=1, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device", driver.device)
    monkeypatch.setattr(torch.cuda, "current_stream", driver.current_stream)
    monkeypatch.setattr(launch, "compile_instance", lambda instance, architecture: f"of {architecture}".encode())
    fake = SimpleNamespace(cuda=SimpleNamespace(ExternalStream=driver.external_stream), RawModule=driver.module)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    case = ms_deform_attn_case()
    arguments = arguments_of(**case.tensors, **case.rest)
    devices = [CudaDevice(0), CudaDevice(1)]
    for index in (1, 0, 1):
        calls.ms_deform_attn_forward(devices[index], arguments)
        assert driver.current == 0
    assert driver.loaded == [1, 0], "once for each device"
    assert driver.launched == [(1, 1, 101), (0, 0, 100), (1, 1, 101)]


@pytest.mark.own_allocator
@pytest.mark.parametrize(
    ("dtype", "dim", "expected"),
    [
        (torch.bfloat16, 64, (8, 8, 1)),
        (torch.float16, 12, (4, 8, 1)),
        (torch.float32, 64, (4, 16, 1)),
        (torch.float32, 256, (4, 32, 2)),
        (torch.float32, 33, (1, 32, 2)),
        (torch.float64, 30, (2, 16, 1)),
        (torch.bfloat16, 1, (1, 8, 1)),
    ],
)
def test_channels_are_shared_in_vectors_of_16_bytes_where_they_divide(
    dtype: torch.dtype, dim: int, expected: tuple[int, int, int]
) -> None:
    assert share_channels(dim, torch.zeros(4, dim, dtype=dtype)) == Channels(dtype, *expected)


def test_vectors_are_as_narrow_as_the_worst_aligned_tensor() -> None:
    aligned = torch.zeros(64)
    shifted = torch.zeros(65)[1:]
    assert share_channels(8, aligned, shifted).vector == 1
    assert share_channels(8, aligned, aligned[2:]).vector == 2


def test_a_decode_sized_call_is_split_and_a_large_one_is_not() -> None:
    channels = Channels(torch.bfloat16, 8, 8, 1)
    decode = plan_splits(plan_rows("mmfs_attention_forward", channels, 1, 16), channels, 24, 6, num_sms=132)
    assert decode.grid == (1, 16, 16)
    prefill = plan_splits(plan_rows("mmfs_attention_forward", channels, 8192, 16), channels, 24, 24, num_sms=132)
    assert prefill.grid == (512, 16, 1)


# ---------------------------------------------------------------------------------------------------------------------


def poison() -> None:
    """Fills memory with NaN and gives it back to PyTorch, whose torch.empty takes it next."""
    for num_bytes in (2**9, 2**12, 2**16, 2**20, 2**24):
        blocks = [torch.full((num_bytes // 4,), torch.nan, device="cuda") for _ in range(16)]
        del blocks


def moved_to_gpu(case: Case) -> Case:
    rest = {name: part.cuda() if isinstance(part, Tensor) else part for name, part in case.rest.items()}
    return Case({name: tensor.cuda() for name, tensor in case.tensors.items()}, rest)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [3, 8, 20, 40, 64, 140])
@pytest.mark.parametrize("way", ["atomic", "map", "dense"])
def test_every_way_on_poisoned_memory(way: str, dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instance, as tests/mmfs/kernels runs it on a CPU."""
    if way == "dense" and dtype not in value_gradient.HALF_TYPES:
        pytest.skip(f"tensor cores do not multiply {dtype} exactly")
    monkeypatch.setattr(value_gradient, "MANY_ADDITIONS", 1 << 30 if way == "atomic" else 0)
    monkeypatch.setattr(value_gradient, "FEWEST_DENSE_ROWS", 1 if way == "dense" else 1 << 30)
    device = CudaDevice(torch.cuda.current_device())
    device.num_sms = 1
    mmfs_attention = moved_to_gpu(mmfs_attention_case(dim=dim, num_queries=37))
    poison()
    assert_agrees(run_mmfs_attention(device, mmfs_attention, dtype), mmfs_attention, dtype)
    ms_deform_attn = moved_to_gpu(ms_deform_attn_case(dim=dim, num_queries=37, num_points=45))
    poison()
    assert_agrees(run_ms_deform_attn(device, ms_deform_attn, dtype), ms_deform_attn, dtype)
    device.num_sms = 1000  # forward in splits
    poison()
    assert_agrees(run_ms_deform_attn(device, ms_deform_attn, dtype), ms_deform_attn, dtype)
    assert_agrees(run_mmfs_attention(device, mmfs_attention, dtype), mmfs_attention, dtype)


@pytest.mark.gpu
@needs_gpu
def test_a_block_gets_more_than_48_kb_of_shared_memory() -> None:
    """A map of three tiles, each as large as this GPU allows."""
    device = CudaDevice(torch.cuda.current_device())
    pixels = 2 * (device.shared_bytes - 40_000) // 256
    case = moved_to_gpu(ms_deform_attn_case(((pixels, 1), (3, 2)), dim=64, num_queries=300))
    assert_agrees(run_ms_deform_attn(device, case, torch.float32, deterministic=True), case, torch.float32)


def on_gpu(dtype: torch.dtype, **options: Any) -> MMFSAttentionArguments:
    case = mmfs_attention_case(**options)
    tensors = {name: tensor.to("cuda", dtype) for name, tensor in case.tensors.items()}
    return arguments_of(**tensors, **case.rest)._replace(visible=case.rest["visible"].cuda())


def as_leaves(arguments: MMFSAttentionArguments, dtype: torch.dtype) -> tuple[MMFSAttentionArguments, list[Tensor]]:
    """The same with floating tensors of this type, which are given in order too."""
    leaves = {
        name: field.detach().to(dtype).requires_grad_()
        for name, field in arguments._asdict().items()
        if isinstance(field, Tensor) and field.is_floating_point()
    }
    return arguments._replace(**leaves), [leaves[name] for name in MMFSAttentionGradients._fields]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [3, 8, 64])
def test_mmfs_on_the_gpu(dtype: torch.dtype, dim: int) -> None:
    arguments = on_gpu(dtype, dim=dim, num_queries=37)
    exact_arguments, exact_leaves = as_leaves(arguments, torch.float64)
    baseline_arguments, baseline_leaves = as_leaves(arguments, dtype)
    exact, baseline = mmfs_attention_reference(exact_arguments), mmfs_attention_reference(baseline_arguments)
    out = cuda.mmfs_attention_forward(arguments)
    floor = 1e-14 if dtype is torch.float64 else 1e-6
    assert_within_error_budget(out, baseline=baseline.detach(), exact=exact.detach(), floor=floor)
    weighting = torch.linspace(-1, 2, out.numel(), device="cuda").view_as(out).to(dtype)
    gradients = cuda.mmfs_attention_backward(weighting, arguments, needs_value=True)
    exact_gradients = torch.autograd.grad(exact, exact_leaves, weighting.double())
    baseline_gradients = torch.autograd.grad(baseline, baseline_leaves, weighting)
    for actual, near, true in zip(gradients, baseline_gradients, exact_gradients, strict=True):
        assert_within_error_budget(actual, baseline=near, exact=true, floor=floor)


@pytest.mark.gpu
@needs_gpu
def test_ms_deform_attn_on_a_stream_of_ones_own() -> None:
    value = torch.rand(2, 34, 4, 8, device="cuda")
    locations = torch.rand(2, 50, 4, 2, 3, 2, device="cuda")
    weights = torch.rand(2, 50, 4, 2, 3, device="cuda")
    expected = ms_deform_attn_reference(MSDeformAttnArguments(value, FLAT, locations, weights))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(value)
        torch.cuda._sleep(10_000_000)
        late.copy_(value)
        out = cuda.ms_deform_attn_forward(MSDeformAttnArguments(late, FLAT, locations, weights))
    stream.synchronize()
    torch.testing.assert_close(out, expected)


@pytest.mark.gpu
@needs_gpu
def test_a_graph_is_captured_and_replayed() -> None:
    arguments = on_gpu(torch.float32, num_queries=37)
    weighting = torch.ones(2, 37, 6, device="cuda")

    def step() -> tuple[Tensor, ...]:
        out = cuda.mmfs_attention_forward(arguments)
        return out, *cuda.mmfs_attention_backward(weighting, arguments, needs_value=True)

    expected = [part.clone() for part in step()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for part in captured:
        part.zero_()
    graph.replay()
    for actual, before in zip(captured, expected, strict=True):
        torch.testing.assert_close(actual, before)


@pytest.mark.gpu
@needs_gpu
def test_two_deterministic_backwards_are_equal_bit_for_bit() -> None:
    arguments = on_gpu(torch.float32, num_queries=500)
    weighting = torch.rand(2, 500, 6, device="cuda")

    def backward() -> tuple[Tensor, ...]:
        return tuple(cuda.mmfs_attention_backward(weighting, arguments, needs_value=True))

    torch.use_deterministic_algorithms(True)
    try:
        first, second = backward(), backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.gpu
@needs_gpu
def test_nothing_waits_for_the_device() -> None:
    arguments = on_gpu(torch.float32)
    weighting = torch.ones(2, 5, 6, device="cuda")
    cuda.mmfs_attention_forward(arguments)  # compiles
    cuda.mmfs_attention_backward(weighting, arguments, needs_value=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        cuda.mmfs_attention_forward(arguments)
        cuda.mmfs_attention_backward(weighting, arguments, needs_value=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
