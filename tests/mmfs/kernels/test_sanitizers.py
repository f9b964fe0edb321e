"""The compiled CPU kernel under GCC's sanitizers: the tests of test_compiled.py again, with every access checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from mmfs import compiled

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "mmfs" / "kernels"

# In a process of its own, because a sanitizer has to be loaded before everything else.
RUN = """
import sys
from pathlib import Path
import pytest
from mmfs import compiled
compiled.FOLDER = Path(sys.argv[1])
sys.exit(pytest.main(sys.argv[2:]))
"""


def setup_script() -> ModuleType:
    spec = spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runtime(name: str) -> str:
    """Where GCC keeps the library of a sanitizer; skips the test where it does not."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"g++ comes without {name}")
    return path


def compile_library(source: Path, folder: Path, sanitizer: str, instruction_set: str = "portable") -> None:
    """One library, which stands for those of all instruction sets."""
    build = setup_script()
    flags = [*build.FLAGS, *build.WARNINGS, *build.instruction_sets()[instruction_set]]
    flags += ["-O1", "-g1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    libraries = [folder / f"_cpu_{name}.so" for name in build.instruction_sets()]
    subprocess.run(["g++", *flags, str(source), "-o", str(libraries[0])], check=True)
    for library in libraries[1:]:
        shutil.copy(libraries[0], library)


def run_tests(folder: Path, preload: str, *selection: str) -> subprocess.CompletedProcess[str]:
    """test_compiled.py with the libraries of a folder."""
    environment = os.environ | {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it likes
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    tests = str(ROOT / "tests" / "mmfs" / "test_compiled.py")
    arguments = [sys.executable, "-c", RUN, str(folder), tests, "-q", "-s", "-p", "no:cacheprovider", *selection]
    command = [*fixed_addresses(), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def fixed_addresses() -> list[str]:
    """What a command begins with to get no random addresses, where that is there and allowed: of those that a system
    with much randomness hands out, some are in the way of the sanitizers' own memory."""
    begin = ["setarch", "--addr-no-randomize"]
    if shutil.which("setarch") is None or subprocess.run([*begin, "true"], capture_output=True, check=False).returncode:
        return []
    return begin


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx2", "portable"])
def test_no_access_outside_and_nothing_undefined(tmp_path: Path, instruction_set: str) -> None:
    if instruction_set == "avx2" and (compiled.why_not() or compiled.why_not_avx2()):
        pytest.skip("AVX2 cannot be used here")
    preload = runtime("libasan.so")
    compile_library(KERNELS / "cpu.cpp", tmp_path, "address,undefined", instruction_set)
    done = run_tests(tmp_path, preload)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_no_race_between_threads(tmp_path: Path) -> None:
    preload = runtime("libtsan.so")
    compile_library(KERNELS / "cpu.cpp", tmp_path, "thread")
    done = run_tests(tmp_path, preload, "-k", "threads")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_a_buffer_one_row_too_short_is_found(tmp_path: Path) -> None:
    """The gradient of corners outside their level goes to a row behind those of the pixels."""
    preload = runtime("libasan.so")
    for source in KERNELS.glob("*.h"):
        shutil.copy(source, tmp_path)
    bank = tmp_path / "cpu_bank.h"
    correct = "const int64_t count = (last_ - first_ + 1) * stride_;"
    assert correct in bank.read_text()
    bank.write_text(bank.read_text().replace(correct, correct.replace(" + 1", "")))
    compile_library(Path(shutil.copy(KERNELS / "cpu.cpp", tmp_path)), tmp_path, "address")
    done = run_tests(tmp_path, preload, "-k", "test_ms_deform_attn_equals_reference")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
