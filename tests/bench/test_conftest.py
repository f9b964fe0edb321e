"""Options of `pytest bench/` that do not fit are refused with a sentence."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from bench.conftest import distributions, dtypes, thread_counts


def test_lists_with_commas():
    assert dtypes("bfloat16,float32") == [torch.bfloat16, torch.float32]
    assert distributions("uniform,trained") == ["uniform", "trained"]
    assert thread_counts("1,2") == [1, 2]


@pytest.mark.parametrize("text", ["0", "two", "1,", "1.5"])
def test_counts_of_threads_are_ints_of_at_least_one(text):
    with pytest.raises(ArgumentTypeError, match=f"--threads is {text}. Expected counts of at least 1, separated by"):
        thread_counts(text)


def test_pytest_shows_the_sentences():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench/", "--dtype", "float8"]
    root = Path(__file__).parents[2]
    refused = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert refused.returncode == 4
    assert "--dtype is float8. Expected some of float32, bfloat16, float16, separated by commas." in refused.stderr
    with pytest.raises(ArgumentTypeError, match=r"--locations is everywhere. Expected some of trained, uniform"):
        distributions("everywhere")
