"""The compiled CPU kernel under GCC's sanitizers, which stop at accesses outside of memory and at what is undefined."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "mmfs/kernels/cpu.cpp"
UNDEFINED = "undefined,float-cast-overflow"
"""Undefined behaviour that GCC finds; conversions of floats that do not fit are not among it by default."""


def setup_script() -> ModuleType:
    spec = spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def why_not(name: str) -> str | None:
    """Why programs cannot be run with a sanitizer here; None if they can.

    name: of its library, "libasan.so" or "libtsan.so".
    """
    if shutil.which("g++") is None:
        return "g++ is not installed: it compiles the kernel with sanitizers"
    if not Path(library_of(name)).is_absolute():
        return f"g++ comes without {name}, the library of its sanitizer"
    return None


def library_of(name: str) -> str:
    """Where GCC keeps the library of a sanitizer; a name without a folder where it has none."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def compile_library(source: Path, library: Path, sanitizer: str, instruction_set: str) -> None:
    build = setup_script()
    flags = [*build.FLAGS, *build.WARNINGS, *build.instruction_sets()[instruction_set]]
    flags += ["-O1", "-g1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)


def compile_for_all(source: Path, folder: Path, sanitizer: str, instruction_set: str = "portable") -> None:
    """One library, which stands for those of all instruction sets."""
    libraries = [folder / f"_cpu_{name}.so" for name in setup_script().instruction_sets()]
    compile_library(source, libraries[0], sanitizer, instruction_set)
    for library in libraries[1:]:
        shutil.copy(libraries[0], library)


def environment(name: str) -> dict[str, str]:
    """Of a program that loads a library compiled with the sanitizer: it has to be loaded before everything else."""
    return os.environ | {
        # Of libstdc++ the sanitizer wants to know how exceptions are thrown, before a module throws one.
        "LD_PRELOAD": f"{library_of(name)} {library_of('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it likes
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def fixed_addresses() -> list[str]:
    """What a command begins with to get no random addresses, where that is there and allowed: of those that a system
    with much randomness hands out, some are in the way of the sanitizers' own memory."""
    begin = ["setarch", "--addr-no-randomize"]
    if shutil.which("setarch") is None or subprocess.run([*begin, "true"], capture_output=True, check=False).returncode:
        return []
    return begin
