"""The emulation notices what it is there to notice."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfs.arguments import MSDeformAttnArguments
from mmfs.kernels import calls
from mmfs.reference import ms_deform_attn_reference
from op_cases import NOT_SQUARE, ms_deform_attn_case

FLAT = [side for size in NOT_SQUARE for side in size]
HEADER = Path(__file__).parent / "emulation" / "emulation.h"

HALF_TYPES = """
#include "emulation.h"
extern "C" void to_halves(const float* x, unsigned short* half, unsigned short* bfloat16, int count) {
    for (int i = 0; i < count; ++i) {
        half[i] = emulation::half_of_float(x[i]);
        bfloat16[i] = emulation::bfloat16_of_float(x[i]);
    }
}
extern "C" void to_floats(const unsigned short* x, float* of_half, float* of_bfloat16, int count) {
    for (int i = 0; i < count; ++i) {
        of_half[i] = emulation::float_of_half(x[i]);
        of_bfloat16[i] = emulation::float_of_bfloat16(x[i]);
    }
}
"""


@pytest.mark.parametrize(
    ("correct", "wrong", "finding"),
    [
        pytest.param("__syncwarp();\n        gather", "gather", "outside every tensor", id="no-barrier"),
        pytest.param("left + 1 < width", "left < width", "outside every tensor", id="one-pixel-too-far"),
        pytest.param("used +=", "used += 64 +", "bytes of shared memory", id="more-shared-memory-than-asked-for"),
        pytest.param("put(static_cast<int>(threadIdx.x)", "put(1 + (threadIdx.x)", "shared index", id="next-slot"),
    ],
)
def test_a_wrong_kernel_is_stopped(device: Any, correct: str, wrong: str, finding: str) -> None:
    case = ms_deform_attn_case(dim=8, high=1.0)
    value, locations, weights = (tensor.float() for tensor in case.tensors.values())
    # The last pixel of all is sampled: one further is outside the tensor.
    locations[-1, -1] = 0.999
    arguments = MSDeformAttnArguments(value, FLAT, locations, weights)
    expected = ms_deform_attn_reference(arguments)
    torch.testing.assert_close(calls.ms_deform_attn_forward(device, arguments), expected)
    device.changed = (correct, wrong)
    device.falling = True  # the thread at the end of the block runs first
    with pytest.raises(RuntimeError, match=finding):
        calls.ms_deform_attn_forward(device, arguments)


def test_half_types_round_as_pytorch_does(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the CPU")
    path = tmp_path / "half_types.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HEADER.parent}", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=HALF_TYPES, text=True, check=True)
    library = ctypes.CDLL(str(path))

    def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    wide = torch.empty(2, len(bits))
    library.to_floats(pointer(bits), pointer(wide[0]), pointer(wide[1]), len(bits))
    for actual, dtype in zip(wide, (torch.float16, torch.bfloat16), strict=True):
        torch.testing.assert_close(actual, bits.view(dtype).float(), rtol=0, atol=0, equal_nan=True)

    draw = torch.Generator().manual_seed(0)
    # Every exponent, and numbers half-way between two halves.
    floats = torch.randint(-(2**31), 2**31, (20000,), generator=draw).to(torch.int32).view(torch.float32)
    between = (wide[0, :-1] + wide[0, 1:]) / 2
    floats = torch.cat([floats, between, torch.tensor([65519.9, 65520.0, -65520.0, torch.inf, torch.nan, 2.0**-25])])
    narrow = torch.empty(2, len(floats), dtype=torch.int16)
    library.to_halves(pointer(floats), pointer(narrow[0]), pointer(narrow[1]), len(floats))
    for actual, dtype in zip(narrow, (torch.float16, torch.bfloat16), strict=True):
        expected = floats.to(dtype)
        torch.testing.assert_close(actual.view(dtype), expected, rtol=0, atol=0, equal_nan=True)
