"""The planning and launching of hosts without Python, mmfs/kernels/cuda_*.cpp, and the machine code of the C++ plugin,
without TensorRT: a library for ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from plugins_trt.launches import Address
from plugins_trt.node_contract import INPUTS, Node

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins_trt/csrc"
KERNELS = ROOT / "mmfs/kernels"
CUDA_SOURCES = tuple(KERNELS / name for name in ("cuda_node.cpp", "cuda_launch.cpp", "cuda_driver.cpp"))
"""Planning and launching, of every host without Python."""

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int64: 3, torch.int32: 4}


class Call(ctypes.Structure):
    """Struct Call of csrc_interface.cpp."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("op", "num_sizes", "has_null", "num_inputs")),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("null_logit", ctypes.c_double),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("ranks", "axes", "types")),
        ("pointers", ctypes.POINTER(ctypes.c_uint64)),
        *((name, ctypes.c_uint64) for name in ("output", "workspace")),
        ("num_sms", ctypes.c_int64),
    ]


def call_of(
    node: Node,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence[Address],
    output: int = 0,
    workspace: int = 0,
    num_sms: int = 1,
) -> Call:
    axes = [size for shape in shapes for size in shape]

    def array(numbers: Sequence[int], kind: Any = ctypes.c_int64) -> Any:
        return (kind * len(numbers))(*numbers)

    return Call(
        list(INPUTS).index(node.operator),
        len(node.spatial_shapes),
        node.null_logit is not None,
        len(shapes),
        array(node.spatial_shapes),
        node.null_logit or 0.0,
        array([len(shape) for shape in shapes]),
        array(axes),
        array([TYPES[address.dtype] for address in inputs]),
        array([address.pointer for address in inputs], ctypes.c_uint64),
        output,
        workspace,
        num_sms,
    )


def compile_plugin(path: Path, flags: Sequence[str] = ()) -> Callable[..., str]:
    """Compiles the library to a path. The result calls a function of csrc_interface.cpp and returns its text."""
    sources = [*CUDA_SOURCES, PLUGIN / "machine_code.cpp", ROOT / "tests/plugins_trt/csrc_interface.cpp"]
    command = ["g++", "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags]
    command += [f"-I{PLUGIN}", f"-I{KERNELS}", *map(str, sources), "-lz", "-ldl", "-o", str(path)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    functions = ctypes.CDLL(str(path))

    def call(function: str, *arguments: Any) -> str:
        found = getattr(functions, function)
        found.restype = ctypes.c_char_p
        return found(*arguments).decode()

    return call
