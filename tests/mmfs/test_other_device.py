"""Tensors of a device for which mmfs has no kernel, as `mps` and `xpu` are: values, gradients, layers and sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

PROGRAM = Path(__file__).with_name("other_device.py")
ROOT = PROGRAM.parents[2]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch cannot register a device in Python; 2.13 can",
)
def test_ops_and_layers_compute_there_as_on_a_cpu() -> None:
    """In a process of its own, which has the device for good."""
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    said = done.stdout.splitlines()
    assert len(said) == 4 * 2 * 2 + 2, "four calls in two types by two implementations, and two layers"
    assert "MMFS: output and 15 gradients" in said
