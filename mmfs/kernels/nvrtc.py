"""NVRTC, NVIDIA's compiler library: CUDA source in, machine code out. It needs neither a GPU nor a driver.

It comes with PyTorch's CUDA wheels, with CuPy's `[ctk]` extra and with the CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch

OPTIONS: Final = ("--std=c++17", "--ptxas-options=-v")
"""For every compilation; with -v the compiler reports registers and spills of each kernel in its log."""
SONAMES: Final = {13: "libnvrtc.so.13", 12: "libnvrtc.so.12"}
"""By the major version of CUDA."""


class NvrtcError(RuntimeError):
    """The source does not compile, or NVRTC does not work."""


@dataclass(frozen=True)
class Compiled:
    binary: bytes
    log: str


def find_nvrtc(versions: Sequence[int] | None = None) -> Path | str | None:
    """Where NVRTC is: beside the installed packages, or where the system looks; None if nowhere.

    Args:
        versions: of CUDA, the first that is found; None: that of PyTorch, whose driver runs its machine code for
            certain, then the newest.
    """
    for version in _versions() if versions is None else versions:
        soname = SONAMES[version]
        for folder in _package_folders():
            if (folder / soname).exists():
                return folder / soname
        try:
            ctypes.CDLL(soname)
        except OSError:
            continue
        return soname
    return None


def why_no_nvrtc() -> str | None:
    """Why kernels cannot be compiled here, in words with the way out; None if `find_nvrtc` finds one."""
    if find_nvrtc() is None:
        packages = "nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 for CUDA 12"
        return f"NVRTC, which compiles the CUDA kernels, was not found: pip install {packages}"
    return None


def _versions() -> list[int]:
    own = None if torch.version.cuda is None else int(torch.version.cuda.partition(".")[0])
    return sorted(SONAMES, key=lambda version: (version != own, -version))


def _package_folders() -> Iterator[Path]:
    for entry in sys.path:
        nvidia = Path(entry) / "nvidia"
        if nvidia.is_dir():
            yield from sorted(nvidia.glob("*/lib"), reverse=True)


class Nvrtc:
    """The library behind a path or name that `find_nvrtc` returned."""

    def __init__(self, library: Path | str) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    def compile(self, source: str, options: Sequence[str], *, ptx: bool = False) -> Compiled:
        """Machine code for the GPU that options name (--gpu-architecture=sm_90), or PTX (=compute_90).

        Raises:
            NvrtcError: with the compiler's log.
        """
        program = ctypes.c_void_p()
        self._check(self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"mmfs.cu", 0, None, None))
        try:
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._library.nvrtcCompileProgram(program, len(options), encoded)
            log = self._bytes("ProgramLog", program).rstrip(b"\0").decode()
            if status:
                raise NvrtcError(f"NVRTC {self.version} cannot compile mmfs's kernels with {list(options)}:\n{log}")
            return Compiled(self._bytes("PTX" if ptx else "CUBIN", program), log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, status: int) -> None:
        if status:
            raise NvrtcError(f"NVRTC failed: {self._library.nvrtcGetErrorString(status).decode()}")


@cache
def nvrtc() -> Nvrtc:
    """The NVRTC of this environment.

    Raises:
        NvrtcError: there is none.
    """
    library = find_nvrtc()
    if library is None:
        raise NvrtcError(
            f"NVRTC was not found. Expected one of {', '.join(SONAMES.values())}, as in PyTorch's CUDA wheels: install "
            "such a PyTorch, or the package nvidia-cuda-nvrtc (for CUDA 12: nvidia-cuda-nvrtc-cu12)."
        )
    return Nvrtc(library)
