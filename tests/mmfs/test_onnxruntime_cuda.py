"""The nodes on onnxruntime's CUDA execution provider, without a GPU: onnxruntime calls them on the CPU's, and the
driver that they launch through runs the CUDA sources there (`emulated_driver`). Nothing here was run on a GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from onnx import ModelProto
from torch import Tensor

import mmfs.onnxruntime
from emulated_driver import EmulatedGpu, gpu_maker
from mmfs.kernels import nvrtc
from mmfs.kernels.source import Instance
from node_cases import FLAT, node_and_inputs, output_for, reference
from numerics import assert_within_error_budget
from onnx_models import model_of, run_bound
from plugin_library import CUDA_SOURCES, KERNELS
from plugins_trt.launches import instances_of
from plugins_trt.node_contract import INPUTS, Node

DIM = 8
DTYPES = (torch.float32, torch.bfloat16)
EVERYWHERE = (ctypes.c_uint64 * 3)(0, 2**63, 1)
"""A range of memory that may be read and written: that of onnxruntime's allocator is not known."""


@pytest.fixture(scope="module")
def make_gpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], EmulatedGpu]:
    """An emulated GPU that knows all kernels of these tests."""
    make = gpu_maker(tmp_path_factory.mktemp("driver"))
    nodes = (Node("MMFS", FLAT), Node("MSDeformAttn", FLAT))
    instances = tuple(one for dtype in DTYPES for node in nodes for one in instances_of(node, DIM, dtype))
    return lambda: make(instances)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, make_gpu: object) -> Path:
    """The operators with the stand-in for their execution provider."""
    path = tmp_path_factory.mktemp("operators") / "operators.so"
    sources = [Path(__file__).with_name("onnxruntime_cuda_stand_in.cpp"), *CUDA_SOURCES]
    command = ["g++", "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-shared", "-fPIC"]
    command += [f"-I{KERNELS}", *map(str, sources), "-ldl", "-o", str(path)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return path


class Machine:
    """The operators, with a GPU of their own."""

    def __init__(self, library: Path, gpu: EmulatedGpu) -> None:
        self.gpu = gpu
        self._library = library
        self._functions = ctypes.CDLL(str(library))
        self._functions.use_driver.restype = ctypes.c_char_p
        assert self.use(gpu.path) is None

    def use(self, driver: str) -> str | None:
        """What is wrong with a driver's library, or None."""
        said = self._functions.use_driver(driver.encode())
        return said.decode() if said else None

    def session(self, model: ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised; onnxruntime would print them too
        options.register_custom_ops_library(str(self._library))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def machine(library: Path, make_gpu: Callable[[], EmulatedGpu]) -> Machine:
    return Machine(library, make_gpu())


def case(operator: str, dtype: torch.dtype = torch.float32) -> tuple[Node, dict[str, Tensor], Tensor]:
    """A node, its inputs by name, and memory for its output."""
    node, tensors = node_and_inputs(operator, dtype, dim=DIM)
    inputs = dict(zip(INPUTS[operator], tensors, strict=True))
    return node, inputs, output_for(node, tensors)


@pytest.mark.parametrize("dynamic", [False, True], ids=["sizes are an attribute", "sizes are an input"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operator", INPUTS)
def test_a_node_is_launched_on_the_stream_and_computes_the_op(
    machine: Machine, operator: str, dtype: torch.dtype, dynamic: bool
) -> None:
    node, inputs, out = case(operator, dtype)
    given = dict(inputs)
    if dynamic:
        given["spatial_shapes"] = torch.tensor(FLAT).view(-1, 2)
    session = machine.session(model_of(node, given))
    tensors = list(inputs.values())
    for turn in range(2):
        machine.gpu.stage(tensors, [out])
        run_bound(session, given, out.fill_(torch.nan))
        exact, baseline = reference(node, tensors, torch.float64), reference(node, tensors, dtype)
        assert_within_error_budget(out, baseline=baseline, exact=exact)
        events = machine.gpu.events()
        if turn == 0:
            assert events.pop(0) == f"load code of {instances_of(node, DIM, dtype)[0].name} for 9.0"
        [launched] = events  # the kernel is loaded once
        assert launched.endswith("on stream 77")


@pytest.mark.parametrize("operator", ["MMFS", "MSDeformAttn"])
def test_a_row_in_parts_is_added_up_in_memory_of_the_session(machine: Machine, operator: str) -> None:
    node, inputs, out = case(operator)
    if operator == "MSDeformAttn":  # of which only rows of many samples are split
        node, inputs, out = many_points()
    session = machine.session(model_of(node, inputs))
    for _ in range(2):
        machine.gpu.stage_ranges(EVERYWHERE, num_sms=200)
        run_bound(session, inputs, out.fill_(torch.nan))
        torch.testing.assert_close(out, reference(node, list(inputs.values()), torch.float32))
    split, merge = machine.gpu.events()
    assert int(split.split()[3]) > 1, split
    assert merge.split()[3] == "1"


def many_points() -> tuple[Node, dict[str, Tensor], Tensor]:
    shapes = {
        "value": (1, 34, 2, DIM),
        "sampling_locations": (1, 2, 2, 2, 64, 2),
        "attention_weights": (1, 2, 2, 2, 64),
    }
    inputs = {name: torch.rand(shape) for name, shape in shapes.items()}
    return Node("MSDeformAttn", FLAT), inputs, torch.empty(1, 2, 2 * DIM)


def test_nothing_is_launched_for_an_empty_output(machine: Machine) -> None:
    node, inputs, _ = case("MSDeformAttn")
    empty = {name: tensor if name == "value" else tensor[:, :0].contiguous() for name, tensor in inputs.items()}
    machine.gpu.stage()
    (out,) = machine.session(model_of(node, empty)).run(None, {name: tensor.numpy() for name, tensor in empty.items()})
    assert out.shape == (inputs["value"].shape[0], 0, inputs["value"].shape[2] * DIM)
    assert machine.gpu.events() == []


@pytest.mark.parametrize(
    ("name", "amend", "sentence"),
    [
        ("value", torch.Tensor.double, r"value has elements of ONNX type 11. Expected float32, float16 or bfloat16 on"),
        ("visible", torch.Tensor.int, r"visible has elements of ONNX type 6. Expected int64 on the CUDA execution"),
        ("reference_points", torch.Tensor.double, "reference_points has elements of ONNX type 11"),
        ("null_value", lambda t: t.T.contiguous(), r"null_value of MMFS has the shape \[8, 2\]. Expected \[2, 8\]"),
        ("spatial_shapes", lambda t: t.int(), r"ONNX type 6. Expected int64 \[levels, 2\]"),
        ("spatial_shapes", lambda t: t.flatten(), r"has the shape \[4\] and elements of ONNX type 7. Expected int64"),
        ("spatial_shapes", lambda t: t * 2, r"value of MMFS has the shape \[\d+, 34, 2, 8\]. Expected \[\d+, 136,"),
    ],
)
def test_what_the_kernels_do_not_take_is_a_sentence(machine: Machine, name: str, amend: Any, sentence: str) -> None:
    node, inputs, out = case("MMFS")
    given = inputs | {"spatial_shapes": torch.tensor(FLAT).view(-1, 2)}
    given[name] = amend(given[name])
    session = machine.session(model_of(node, given))
    machine.gpu.stage(given.values(), [out])
    with pytest.raises(Exception, match=sentence):
        run_bound(session, given, out.to(given["value"].dtype))
    assert machine.gpu.events() == []


def test_what_the_driver_refuses_is_a_sentence_and_the_session_goes_on(machine: Machine) -> None:
    node, inputs, out = case("MSDeformAttn")
    session = machine.session(model_of(node, inputs))
    machine.gpu.stage(inputs.values(), [out], has_context=False)
    with pytest.raises(Exception, match=r"No CUDA context is current. Expected to be called by a runtime"):
        run_bound(session, inputs, out)
    assert machine.use("libno-such-cuda.so") == (
        "The CUDA driver libno-such-cuda.so cannot be loaded (libno-such-cuda.so: cannot open shared object file: No "
        "such file or directory). Expected an NVIDIA GPU and driver."
    )
    machine.use(machine.gpu.path)
    machine.gpu.stage(inputs.values(), [out])
    run_bound(session, inputs, out)
    torch.testing.assert_close(out, reference(node, list(inputs.values()), torch.float32))


# ---------------------------------------------------------------------------------------------------------------------
# Machine code


def asked(kernel: str, major: int, minor: int) -> tuple[bytes, int]:
    """What the library gets from Python."""
    num_bytes = ctypes.c_int64(0)
    address = mmfs.onnxruntime.MACHINE_CODE(kernel.encode(), major, minor, ctypes.byref(num_bytes))
    if num_bytes.value < 0:
        return ctypes.string_at(address), num_bytes.value
    return ctypes.string_at(address, num_bytes.value), num_bytes.value


def test_machine_code_is_compiled_for_the_kernel_and_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[Instance, str]] = []

    def compile_instance(instance: Instance, architecture: str) -> bytes:
        compiled.append((instance, architecture))
        return b"\x7fELF\0\0code"

    monkeypatch.setattr(mmfs.onnxruntime, "compile_instance", compile_instance)
    expected = [
        instance
        for operator in ("MMFS", "MSDeformAttn")
        for instance in instances_of(Node(operator, FLAT), 40, torch.bfloat16)
    ]
    for instance in expected:
        assert asked(instance.name, 8, 6) == (b"\x7fELF\0\0code", 10)
    assert compiled == [(instance, "sm_86") for instance in expected]


def test_what_cannot_be_compiled_is_a_sentence() -> None:
    sentence, num_bytes = asked("mmfs_merge_splits_float32_4_8_1", 7, 5)
    assert num_bytes == -1
    assert sentence.decode() == (
        "The GPU has compute capability 7.5, and mmfs's CUDA kernels need 8.0 or later. Give the session the CPU "
        "execution provider alone, or load the model without mmfs.onnxruntime."
    )
    assert asked("no kernel", 9, 0) == (b"'no kernel' is not the name of a kernel of mmfs.", -1)


def test_without_nvrtc_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: None)
    reason = mmfs.onnxruntime.why_not_cuda()
    assert reason is not None
    assert "pip install nvidia-cuda-nvrtc" in reason
