"""The compiled CPU kernel for other processors and by other compilers: the tests of test_compiled.py again."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import kernel_process
from compiled_tests import SELECT_PORTABLE, assert_passed, run_compiled_tests
from mmfs import compiled
from sanitizers import ROOT, SOURCE, setup_script

AARCH64 = "aarch64-linux-gnu-g++"
"""GCC as a cross compiler for 64-bit ARM, whose vectors are NEON's."""

EMULATOR = "qemu-aarch64"
SYSTEM = "/usr/aarch64-linux-gnu"
"""Where Debian and Ubuntu keep the libraries of the cross compiler."""


def skip_without(*programs: str) -> None:
    """Skips the test where one of the programs is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not found; on Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user "
            "clang libc++-dev libc++abi-dev"
        )


def build(compiler: str, folder: Path) -> dict[str, Path]:
    """Both libraries by the first part of their names, as setup.py builds them for a wheel; a warning is an error."""
    script, libraries = setup_script(), {}
    for name, sources in script.SOURCES.items():
        libraries[name[1:]] = library = folder / f"{name}_portable.so"
        script.compile_kernel(f"{compiler} -Werror", [ROOT / source for source in sources], "portable", library)
    return libraries


def emulated(folder: Path) -> list[str]:
    """What begins a process that calls a library for 64-bit ARM."""
    program = folder / "kernel_process"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([AARCH64, *flags, str(kernel_process.SOURCE), "-o", str(program), "-ldl"], check=True)
    return [EMULATOR, "-L", SYSTEM, str(program)]


@pytest.mark.slow
def test_on_64_bit_arm(tmp_path: Path) -> None:
    """In a process that QEMU emulates; of the nodes of onnxruntime only that they compile and load."""
    skip_without(AARCH64, EMULATOR)
    libraries = build(AARCH64, tmp_path)
    command = [*emulated(tmp_path), str(libraries["cpu"])]
    process = kernel_process.KernelProcess(command)
    assert process.mmfs_cpu_interface_version() == compiled.INTERFACE_VERSION
    assert process.mmfs_cpu_has_avx2() == 0
    assert process.mmfs_cpu_has_avx512() == 0
    process.close()
    nodes = subprocess.run(
        [*command[:-1], str(libraries["onnxruntime"])],
        input=b"no_such_function".ljust(80, b"\0"),
        capture_output=True,
        check=False,
    )
    assert nodes.stderr.decode() == "the library has no no_such_function\n", "it does not load"
    assert_passed(run_compiled_tests(command, *SELECT_PORTABLE))


@pytest.mark.slow
def test_by_clang(tmp_path: Path) -> None:
    """With libc++: the kinds of compiler and standard library that macOS has, for this processor."""
    skip_without("clang++")
    clang = "clang++ -stdlib=libc++"
    libraries = build(clang, tmp_path)
    ctypes.CDLL(str(libraries["onnxruntime"]))
    names = [name for name in compiled.INSTRUCTION_SETS if not compiled.why_not_instruction_set(name)]
    for name in setup_script().instruction_sets():
        setup_script().compile_kernel(f"{clang} -Werror", [SOURCE], name, tmp_path / f"_cpu_{name}.so")
    assert_passed(run_compiled_tests(tmp_path, "-k", f"({' or '.join(names)}) and not library"))


@pytest.mark.slow
def test_by_clang_for_64_bit_arm(tmp_path: Path) -> None:
    """The kinds of processor and compiler of Apple's machines, with the libraries of the cross compiler."""
    skip_without("clang++", AARCH64, EMULATOR)
    libraries = build("clang++ --target=aarch64-linux-gnu", tmp_path)
    assert_passed(run_compiled_tests([*emulated(tmp_path), str(libraries["cpu"])], *SELECT_PORTABLE))
