"""`python -m export PROGRAM ...` is `python -m export.PROGRAM ...`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.__main__ import PROGRAMS

ROOT = Path(__file__).parents[2]


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_gets_the_rest_of_the_arguments(program: str) -> None:
    behind, directly = ran("export", program, "--help"), ran(f"export.{program}", "--help")
    assert behind.stdout == directly.stdout
    assert behind.stdout.startswith(f"usage: python -m export.{program} ")
    assert behind.returncode == directly.returncode == 0


def test_what_it_has_is_listed_and_what_it_has_not_is_refused(tmp_path: Path) -> None:
    listed = ran("export", "--help").stdout
    assert all(program in listed and what in listed for program, what in PROGRAMS.items())
    refused = ran("export", "fly")
    assert refused.returncode == 2
    assert "invalid choice: 'fly'" in refused.stderr
    missing = ran("export", "verified", str(tmp_path))
    assert missing.returncode == 2
    assert f"{tmp_path} holds no manifest.json" in missing.stderr
