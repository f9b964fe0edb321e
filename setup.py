"""The compiled CPU kernel of mmfs as part of the wheel. Everything else about the package is in pyproject.toml.

mmfs/kernels/cpu.cpp, for PyTorch, and mmfs/kernels/onnxruntime_node.cpp with cuda_*.cpp, for onnxruntime, become one
shared library for each instruction set. They have a plain C interface, so the wheel depends on the platform but not on
the version of Python. Without a C++ compiler the package installs without them and computes with PyTorch's own
operators.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("mmfs", "kernels")
SOURCES = {
    "_cpu": [KERNELS / "cpu.cpp"],
    "_onnxruntime": [
        KERNELS / name for name in ("onnxruntime_node.cpp", "cuda_node.cpp", "cuda_launch.cpp", "cuda_driver.cpp")
    ],
}
"""By the first part of the libraries' names; the instruction set is the second."""
# -ffp-contract=off: sampling.h asks for it. -psabi, -ignored-attributes: GCC's notes about vectors as arguments.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]
LIBRARIES = ["-ldl"]  # by which the CUDA driver is opened, where there is one
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes"]


def instruction_sets() -> dict[str, list[str]]:
    """Compiler flags by instruction set; portable runs on every processor of the platform."""
    sets: dict[str, list[str]] = {"portable": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        sets["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
        # Of AVX-512 only more registers and masks, with vectors of 32 bytes: the same results as those of AVX2.
        avx512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]
        sets["avx512"] = [*sets["avx2"], *avx512, "-mprefer-vector-width=256"]
    return sets


def find_compiler() -> str | None:
    """GCC or Clang; other compilers do not have the vector types that the kernel uses."""
    if sys.platform == "win32":
        return None
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def compile_kernel(compiler: str, sources: Sequence[Path], instruction_set: str, library: Path) -> None:
    """Raises subprocess.CalledProcessError, OSError."""
    library.parent.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, *WARNINGS, *instruction_sets()[instruction_set]]
    subprocess.run([*compiler.split(), *flags, *map(str, sources), *LIBRARIES, "-o", str(library)], check=True)


class BuildKernel(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        compiler = find_compiler()
        assert compiler is not None, "without a compiler there are no extensions"
        instruction_set = ext.name.rpartition("_")[2]
        try:
            sources = [Path(source) for source in ext.sources]
            compile_kernel(compiler, sources, instruction_set, Path(self.get_ext_fullpath(ext.name)))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"mmfs is built without {ext.name}, because compiling it failed: {error}")


class WheelOfOnePlatform(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return ("py3", "none", tag[2]) if self.distribution.has_ext_modules() else tag


def extensions() -> list[Extension]:
    headers = [*sorted(map(str, KERNELS.glob("*.h"))), str(KERNELS / "arguments.cuh")]
    return [
        Extension(f"mmfs.{name}_{instruction_set}", [*map(str, sources)], depends=headers, optional=True)
        for name, sources in SOURCES.items()
        for instruction_set in instruction_sets()
    ]


if __name__ == "__main__":
    compiler_found = find_compiler() is not None
    if not compiler_found:
        print("mmfs is built without its compiled CPU kernel, because neither g++ nor clang++ was found.")
    setup(
        ext_modules=extensions() if compiler_found else [],
        cmdclass={"build_ext": BuildKernel, "bdist_wheel": WheelOfOnePlatform},
    )
