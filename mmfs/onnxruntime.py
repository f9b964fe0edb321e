"""The mmfs nodes of ONNX files in onnxruntime, computed by mmfs's own kernels.

    options = onnxruntime.SessionOptions()
    mmfs.onnxruntime.register(options)
    session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])

A file that `plugins_trt.onnx_function.attach_functions` completed runs without this too, by the bodies of its nodes,
which are many standard operators. onnxruntime prefers an operator that it knows to a body; with this it computes MMFS,
MMFSImageLists and MSDeformAttn, and their forms Dynamic...:

* on the CPU execution provider by the compiled kernel, with values of float32, float16, bfloat16 and float64;
* on the CUDA execution provider of onnxruntime-gpu by the CUDA kernels, with values of float32, float16 and bfloat16,
  on the session's stream. NVRTC compiles them when a node first needs them, and they stay on disk; without NVRTC
  (`why_not_cuda`) these nodes are computed by their bodies. This was run with a stand-in for the CUDA driver alone,
  never on a GPU.

onnxruntime has to be 1.24 or newer: registering with an older one is an error that says so.

kernels/onnxruntime_node.cpp is the source; setup.py compiles it with the package. This module imports no onnxruntime.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, Final

from mmfs.compiled import FOLDER, InstructionSet, best_instruction_set
from mmfs.kernels.launch import compile_instance, why_too_old
from mmfs.kernels.nvrtc import why_no_nvrtc
from mmfs.kernels.source import Instance

NUM_THREADS_ENTRY: Final = "mmfs.intra_op_num_threads"
"""An entry of a session's configuration: for how many threads the nodes cut their work, which the session's own threads
do. Without it, for the machine's: the results are the same, and a session with fewer threads computes a little more."""


def library_path() -> Path:
    """The library for this processor, for `SessionOptions.register_custom_ops_library`: by itself it computes on the
    CPU execution provider; `register` adds CUDA's.

    Raises:
        OSError: this installation has none.
    """
    return _library(best_instruction_set())


def why_not() -> str | None:
    """Why there is no library; None if there is one."""
    try:
        library_path()
    except OSError as error:
        return str(error)
    return None


def why_not_cuda() -> str | None:
    """Why nodes on the CUDA execution provider are computed by their bodies; None if the CUDA kernels compute them."""
    return why_no_nvrtc() or why_not()


def register(session_options: Any) -> None:
    """Let the sessions that are made with these options compute mmfs nodes by mmfs's kernels.

    Set `intra_op_num_threads` before: it is copied into the session's configuration.

    Args:
        session_options: an `onnxruntime.SessionOptions`.

    Raises:
        OSError: this installation has no library.
        RuntimeError: onnxruntime refuses it, being older than 1.24.
    """
    path = library_path()
    if (num_threads := session_options.intra_op_num_threads) > 0:
        session_options.add_session_config_entry(NUM_THREADS_ENTRY, str(num_threads))
    if why_not_cuda() is None:
        _loaded(path).mmfs_onnxruntime_use_cuda(MACHINE_CODE)
    session_options.register_custom_ops_library(str(path))


def _library(instruction_set: InstructionSet) -> Path:
    path = FOLDER / f"_onnxruntime_{instruction_set}.so"
    if not path.is_file():
        raise OSError(
            f"this installation of mmfs has no custom operators for onnxruntime, {path.name}: no C++ compiler was "
            "found when it was installed, or compiling failed. Install g++ or clang++, and mmfs again from source."
        )
    _loaded(path)
    return path


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    if not hasattr(loaded, "mmfs_onnxruntime_use_cuda"):
        raise OSError(
            f"the custom operators {path} were built from other sources than this version of mmfs. Install mmfs again."
        )
    return loaded


def _machine_code(kernel: bytes, major: int, minor: int, num_bytes: Any) -> int:
    """For kernels/onnxruntime_node.cpp: the address of a kernel's machine code, or of a sentence with -1 bytes."""
    try:
        image = _compiled(kernel.decode(), major, minor)
        num_bytes[0] = len(image)
    except Exception as error:  # nothing may leave a function that C++ calls
        image = str(error).encode() + b"\0"
        num_bytes[0] = -1
    _kept[kernel, major, minor] = image
    address: int | None = ctypes.cast(ctypes.c_char_p(image), ctypes.c_void_p).value
    assert address is not None, "bytes lie somewhere"
    return address


def _compiled(kernel: str, major: int, minor: int) -> bytes:
    if (reason := why_too_old((major, minor))) is not None:
        raise ValueError(
            f"{reason[0].upper()}{reason[1:]}. Give the session the CPU execution provider alone, or load the model "
            "without mmfs.onnxruntime."
        )
    return compile_instance(Instance.named(kernel), f"sm_{major}{minor}")


_kept: dict[tuple[bytes, int, int], bytes] = {}

MACHINE_CODE: Final = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_int64)
)(_machine_code)
"""The library keeps it, so it lives as long as the module."""
