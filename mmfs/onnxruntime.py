"""The mmfs nodes of ONNX files in onnxruntime, computed by the compiled CPU kernel.

    options = onnxruntime.SessionOptions()
    mmfs.onnxruntime.register(options)
    session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])

A file that `plugins_trt.onnx_function.attach_functions` completed runs without this too, by the bodies of its nodes,
which are many standard operators. onnxruntime prefers an operator that it knows to a body; with this it computes MMFS,
MMFSImageLists and MSDeformAttn, and their forms Dynamic..., by the kernel, with values of float32, float16, bfloat16
and float64, on the CPU execution provider. onnxruntime has to be 1.24 or newer: registering with an older one is an
error that says so.

kernels/onnxruntime_node.cpp is the source; setup.py compiles it with the package. This module imports no onnxruntime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mmfs.compiled import FOLDER, InstructionSet, best_instruction_set

NUM_THREADS_ENTRY: Final = "mmfs.intra_op_num_threads"
"""An entry of a session's configuration: for how many threads the nodes cut their work, which the session's own threads
do. Without it, for the machine's: the results are the same, and a session with fewer threads computes a little more."""


def library_path() -> Path:
    """The library for this processor, for `SessionOptions.register_custom_ops_library`.

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


def register(session_options: Any) -> None:
    """Let the sessions that are made with these options compute mmfs nodes by the compiled kernel.

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
    session_options.register_custom_ops_library(str(path))


def _library(instruction_set: InstructionSet) -> Path:
    path = FOLDER / f"_onnxruntime_{instruction_set}.so"
    if not path.is_file():
        raise OSError(
            f"this installation of mmfs has no custom operators for onnxruntime, {path.name}: no C++ compiler was "
            "found when it was installed, or compiling failed. Install g++ or clang++, and mmfs again from source."
        )
    return path
