"""The compiled CPU kernel under GCC's sanitizers: the tests of test_compiled.py again, with every access checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compiled_tests import run_compiled_tests
from mmfs import compiled
from sanitizers import SOURCE, UNDEFINED, compile_for_all, environment, fixed_addresses, why_not


def skip_without(name: str) -> None:
    """Skips the test where programs cannot be run with a sanitizer."""
    if (reason := why_not(name)) is not None:
        pytest.skip(reason)


def run_tests(folder: Path, sanitizer: str, *selection: str) -> subprocess.CompletedProcess[str]:
    """test_compiled.py with the libraries of a folder. A sanitizer has to be loaded before everything else."""
    return run_compiled_tests(folder, *selection, begin=fixed_addresses(), environment=environment(sanitizer))


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx2", "portable"])
def test_no_access_outside_and_nothing_undefined(tmp_path: Path, instruction_set: str) -> None:
    if (reason := compiled.why_not() or compiled.why_not_instruction_set(instruction_set)) is not None:
        pytest.skip(reason)
    skip_without("libasan.so")
    compile_for_all(SOURCE, tmp_path, f"address,{UNDEFINED}", instruction_set)
    done = run_tests(tmp_path, "libasan.so", "-k", "not avx512")  # all names stand for the same library
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_no_race_between_threads(tmp_path: Path) -> None:
    skip_without("libtsan.so")
    compile_for_all(SOURCE, tmp_path, "thread")
    done = run_tests(tmp_path, "libtsan.so", "-k", "threads")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_a_buffer_one_row_too_short_is_found(tmp_path: Path) -> None:
    """The gradient of corners outside their level goes to a row behind those of the pixels."""
    skip_without("libasan.so")
    for source in SOURCE.parent.glob("*.h"):
        shutil.copy(source, tmp_path)
    bank = tmp_path / "cpu_bank.h"
    correct = "const int64_t count = (last_ - first_ + 1) * stride_;"
    assert correct in bank.read_text()
    bank.write_text(bank.read_text().replace(correct, correct.replace(" + 1", "")))
    compile_for_all(Path(shutil.copy(SOURCE, tmp_path)), tmp_path, "address")
    done = run_tests(tmp_path, "libasan.so", "-k", "test_ms_deform_attn_equals_reference")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
