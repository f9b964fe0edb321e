"""The entry points of TensorRT's ahead-of-time plugins: compiled as C++ they compute what the op computes, and NVRTC
compiles them to what TensorRT is given.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmfs.kernels.nvrtc import OPTIONS, find_nvrtc, nvrtc
from mmfs.kernels.source import kernel_source
from node_cases import node_and_inputs, reference
from numerics import assert_within_error_budget
from plugins_trt.entry import SCALARS, Entry
from plugins_trt.machine_code import ARCHITECTURES, compile_ptx
from plugins_trt.node_contract import INPUTS, Node

EMULATION = Path(__file__).parents[1] / "mmfs/kernels/emulation"
TYPES = (torch.float32, torch.float16, torch.bfloat16)
MAIN = """
#include <utility>

// A launch as TensorRT's runtime makes it: the addresses of the arguments, in order.
template <typename... Parameters, std::size_t... Index>
void call(void (*entry)(Parameters...), void* const* arguments, std::index_sequence<Index...>) {
    entry(*static_cast<Parameters*>(arguments[Index])...);
}

template <typename... Parameters>
void call(void (*entry)(Parameters...), const void* arguments) {
    call(entry, static_cast<void* const*>(arguments), std::index_sequence_for<Parameters...>());
}

extern "C" const char* emulate(const char* name, void* const* arguments, const std::int64_t* grid, int threads,
                               int shared_bytes, const emulation::Range* ranges, int num_ranges) {
    static const std::pair<std::string, void (*)(const void*)> entries[] = {%s};
    static std::string message;
    emulation::ranges.assign(ranges, ranges + num_ranges);
    try {
        for (const auto& [known, entry] : entries) {
            if (known == name) {
                emulation::launch(entry, arguments, grid, threads, shared_bytes, false);
                return nullptr;
            }
        }
        message = "there is no such entry point";
    } catch (const std::exception& error) {
        message = error.what();
    }
    return message.c_str();
}
"""


def entry_of(node: Node, inputs: Sequence[Tensor]) -> Entry:
    return Entry.of(node, [tuple(tensor.shape) for tensor in inputs], [tensor.dtype for tensor in inputs])


def build(entries: Sequence[Entry], path: Path) -> ctypes.CDLL:
    """Entry points as C++."""
    text = "\n".join(entry.text for entry in entries)
    table = ", ".join(
        f'{{"{entry.name}", [](const void* given) {{ call({entry.name}, given); }}}}' for entry in entries
    )
    code = "\n".join(['#include "emulation.h"', kernel_source(), text, MAIN % table])
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off"]
    command += ["-shared", "-fPIC", f"-I{EMULATION}", "-x", "c++", "-", "-o", str(path)]
    done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    library = ctypes.CDLL(str(path))
    library.emulate.restype = ctypes.c_char_p
    return library


def run(library: ctypes.CDLL, entry: Entry, inputs: Sequence[Tensor]) -> Tensor:
    """The output, which is NaN before."""
    value, weights = inputs[0], inputs[2] if len(inputs) == 3 else inputs[3]
    batch, num_queries = weights.shape[:2]
    out = torch.full((batch, num_queries, value.shape[2] * value.shape[3]), torch.nan, dtype=value.dtype)
    scalars = {"batch": batch, "num_queries": num_queries, "num_images": value.shape[0]}
    arguments: list[Any] = [ctypes.c_void_p(tensor.data_ptr()) for tensor in inputs]
    arguments += [ctypes.c_int32(scalars[name]) for name in SCALARS]
    arguments += [ctypes.c_void_p(out.data_ptr())]
    blocks = max(1, -(-batch * num_queries // entry.rows_per_block))
    ranges = [number for tensor in inputs for number in (tensor.data_ptr(), tensor.nbytes, 0)]
    ranges += [out.data_ptr(), out.nbytes, 1]
    message = library.emulate(
        entry.name.encode(),
        (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments)),
        (ctypes.c_int64 * 3)(blocks, entry.grid_y, 1),
        entry.threads,
        entry.shared_bytes,
        (ctypes.c_uint64 * len(ranges))(*ranges),
        len(ranges) // 3,
    )
    assert message is None, message
    return out


Emulated = Callable[..., tuple[Tensor, Entry]]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """Runs a node's entry point; those of one type of value are compiled at once."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the CPU")
    folder = tmp_path_factory.mktemp("entries")
    libraries: dict[torch.dtype, ctypes.CDLL] = {}

    def run_entry(node: Node, inputs: Sequence[Tensor], usual: Sequence[Tensor] | None = None) -> tuple[Tensor, Entry]:
        dtype = inputs[0].dtype
        if dtype not in libraries:
            cases = [("MMFS", {}), ("MMFS", {"null_logit": None}), ("MMFSImageLists", {}), ("MSDeformAttn", {})]
            entries = [entry_of(*node_and_inputs(operator, dtype, dim=8, **options)) for operator, options in cases]
            libraries[dtype] = build(entries, folder / f"{dtype}.so")
        entry = entry_of(node, inputs if usual is None else usual)
        return run(libraries[dtype], entry, inputs), entry

    return run_entry


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("operator", INPUTS)
def test_an_entry_point_computes_the_op(emulated: Emulated, operator: str, dtype: torch.dtype) -> None:
    """With more rows than a block has, with no visible image among them, and levels that are not square."""
    node, usual = node_and_inputs(operator, dtype, dim=8)
    for sizes in ({}, {"batch": 3, "num_queries": 11}, {"batch": 1, "num_queries": 1}):
        _, inputs = node_and_inputs(operator, dtype, dim=8, **sizes)
        out, entry = emulated(node, inputs, usual)
        assert entry == entry_of(node, inputs), "one entry point for all batches and numbers of queries"
        exact = reference(node, inputs, torch.float64)
        assert_within_error_budget(out, baseline=reference(node, inputs, dtype), exact=exact)


@pytest.mark.parametrize("null_logit", [0.3, None])
def test_an_entry_point_takes_a_bank_of_any_size_and_queries_without_images(
    emulated: Emulated, null_logit: float | None
) -> None:
    """Both halves of a guided batch point at the same images; some queries point at none."""
    entries = set()
    for num_images in (0, 1, 6):
        node, inputs = node_and_inputs("MMFS", torch.float32, dim=8, null_logit=null_logit, num_images=num_images)
        visible = inputs[INPUTS["MMFS"].index("visible")]
        visible[1] = visible[0]
        visible[:, -1] = 0
        out, entry = emulated(node, inputs)
        torch.testing.assert_close(out, reference(node, inputs, torch.float32))
        null_value = inputs[INPUTS["MMFS"].index("null_value")]
        torch.testing.assert_close(out[:, -1], null_value.flatten().expand(2, -1))
        entries.add(entry.name)
    assert len(entries) == 1


@pytest.mark.parametrize("operator", INPUTS)
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"num_queries": 0}], ids=str)
def test_an_entry_point_without_rows_touches_nothing(emulated: Emulated, operator: str, sizes: dict[str, int]) -> None:
    node, inputs = node_and_inputs(operator, torch.float32, dim=8, **sizes)
    _, usual = node_and_inputs(operator, torch.float32, dim=8)
    out, _ = emulated(node, inputs, usual)
    assert out.numel() == 0


def test_sizes_beyond_32_bits_are_multiplied_in_64() -> None:
    node, inputs = node_and_inputs("MMFS", torch.float16, dim=8)
    text = entry_of(node, inputs).text
    assert "arguments.num_rows = static_cast<mmfs::int64>(batch) * num_queries;" in text
    assert "arguments.num_pixels = num_images * 34LL;" in text
    assert f"arguments.null_logit = {(0.3).hex()};" in text


def test_nodes_that_differ_have_entry_points_of_different_names() -> None:
    names = set()
    for options in ({}, {"null_logit": None}, {"null_logit": 0.30000001}, {"num_points": 4}, {"num_ages": 5}):
        names.add(entry_of(*node_and_inputs("MMFS", torch.float16, dim=8, **options)).name)
    assert len(names) == 5


@pytest.mark.parametrize(
    ("null_logit", "dim", "sentence"),
    [
        (float("-inf"), 8, r"null_logit is -inf\. Expected a finite float32, or use_null=0"),
        (0.0, 0, r"value of MMFS has the shape \[6, 34, 2, 0\]\. Expected heads and channels"),
    ],
)
def test_what_cannot_be_compiled_in_is_refused(null_logit: float, dim: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        entry_of(*node_and_inputs("MMFS", torch.float16, dim=dim, null_logit=null_logit))


@pytest.mark.parametrize("operator", INPUTS)
def test_nvrtc_writes_the_ptx_that_tensorrt_launches(operator: str) -> None:
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    node, inputs = node_and_inputs(operator, torch.float16, dim=64)
    entry = entry_of(node, inputs)
    ptx = compile_ptx(entry.source).decode()
    assert ".target sm_80" in ptx
    assert ptx.count(".entry ") == 1
    head = re.search(rf"\.visible \.entry {entry.name}\((.*?)\)", ptx, re.DOTALL)
    assert head is not None
    kinds = re.findall(r"\.param \.(\w+)", head[1])
    assert kinds == ["u64"] * len(inputs) + ["u32"] * len(SCALARS) + ["u64"]
    assert re.search(r"\.maxntid 128", ptx)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_gpu_spills_registers(architecture: str) -> None:
    """The structure itself is on the stack, where the launch of the other plugin kinds has it among the parameters."""
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    for operator in INPUTS:
        entry = entry_of(*node_and_inputs(operator, torch.float16, dim=64))
        log = nvrtc().compile(entry.source, [*OPTIONS, f"--gpu-architecture={architecture}"]).log
        assert f"Compiling entry function '{entry.name}' for '{architecture}'" in log
        assert "0 bytes spill stores, 0 bytes spill loads" in log
