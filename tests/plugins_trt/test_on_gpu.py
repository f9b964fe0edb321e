"""What an engine launches, launched on a GPU without an engine: the machine code and bytes of the plugins, and the
entry points of the ahead-of-time ones.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from mmfs.kernels.nvrtc import find_nvrtc
from node_cases import node_and_inputs, output_for, reference
from numerics import assert_within_error_budget
from plugins_trt.driver import driver
from plugins_trt.entry import SCALARS, Entry
from plugins_trt.launches import MOST_SMS, Address, instances_of, launches, workspace_bytes
from plugins_trt.machine_code import PTX_ARCHITECTURE, compile_ahead, compile_ptx
from plugins_trt.node_contract import INPUTS, Node

DIM = 40
TYPES = (torch.float32, torch.float16, torch.bfloat16)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"),
]


def on_gpu(operator: str, dtype: torch.dtype) -> tuple[Node, list[Tensor], Tensor]:
    """A node, its inputs, and memory for its output that holds NaN."""
    node, inputs = node_and_inputs(operator, dtype, dim=DIM, num_queries=37)
    return node, [tensor.cuda() for tensor in inputs], output_for(node, inputs).cuda()


def assert_computed(out: Tensor, node: Node, inputs: list[Tensor]) -> None:
    torch.cuda.synchronize()
    given = [tensor.cpu() for tensor in inputs]
    baseline, exact = reference(node, given, out.dtype), reference(node, given, torch.float64)
    assert_within_error_budget(out.cpu(), baseline=baseline, exact=exact)


@pytest.mark.parametrize("num_sms", [1, MOST_SMS], ids=["whole", "in-parts"])
@pytest.mark.parametrize("architecture", ["own", PTX_ARCHITECTURE])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("operator", INPUTS)
def test_machine_code_with_the_bytes_that_a_plugin_packs(
    operator: str, dtype: torch.dtype, architecture: str, num_sms: int
) -> None:
    node, inputs, out = on_gpu(operator, dtype)
    gpu, stream = driver().current_gpu(), torch.cuda.current_stream().cuda_stream
    major, minor = gpu.capability
    code = compile_ahead(
        instances_of(node, DIM, dtype), (f"sm_{major}{minor}" if architecture == "own" else architecture,)
    )
    shapes = [tuple(tensor.shape) for tensor in inputs]
    workspace = torch.full((workspace_bytes(node, shapes, dtype),), 0xFF, dtype=torch.uint8, device="cuda")
    addresses = [Address(tensor.data_ptr(), tensor.dtype) for tensor in inputs]
    output = Address(out.data_ptr(), dtype)
    for launch in launches(node, shapes, addresses, output, workspace.data_ptr(), num_sms):
        gpu.launch(code, launch, stream)
    assert_computed(out, node, inputs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("operator", INPUTS)
def test_an_entry_point_with_plain_arguments(operator: str, dtype: torch.dtype) -> None:
    node, inputs, out = on_gpu(operator, dtype)
    entry = Entry.of(node, [tuple(tensor.shape) for tensor in inputs], [tensor.dtype for tensor in inputs])
    cuda, module, kernel = driver(), ctypes.c_void_p(), ctypes.c_void_p()
    cuda.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(compile_ptx(entry.source)))
    cuda.call("cuModuleGetFunction", ctypes.byref(kernel), module, entry.name.encode())
    batch, num_queries = out.shape[:2]
    sizes = {"batch": batch, "num_queries": num_queries, "num_images": len(inputs[0])}
    arguments = [
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in inputs),
        *(ctypes.c_int32(sizes[name]) for name in SCALARS),
        ctypes.c_void_p(out.data_ptr()),
    ]
    blocks = -(-batch * num_queries // entry.rows_per_block)
    cuda.call(
        "cuLaunchKernel",
        kernel,
        *(ctypes.c_uint(size) for size in (blocks, entry.grid_y, 1, entry.threads, 1, 1, entry.shared_bytes)),
        ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments)),
        None,
    )
    assert_computed(out, node, inputs)
