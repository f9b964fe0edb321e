"""Tests of pages leave nothing behind that others trip over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = "tests/trainer/demo/test_stepping.py::test_buttons_and_arrow_keys_step_through_the_words"
LOOP = "tests/export/serve/engine/test_handle.py"


@pytest.mark.slow
@pytest.mark.usefixtures("browser")  # skips where there is none
@pytest.mark.parametrize("order", [(PAGE, LOOP), (LOOP, PAGE)])
def test_one_process_opens_pages_and_runs_event_loops_in_any_order(order: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *order]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
