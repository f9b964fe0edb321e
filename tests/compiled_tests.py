"""The tests of the compiled CPU kernel in a process of their own, with other libraries than the installation's."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "mmfs" / "test_compiled.py"
LAYER_TESTS = TESTS.with_name("test_compiled_layer.py")
"""Of what reads PyTorch's tensors in C, which a library of another process cannot."""

SELECT_PORTABLE = ("-k", "portable and not library")
"""All that ask for a library; not those about how it is found."""

RUN = """
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path[:0] = [{root!r}, {tests!r}]
from kernel_process import KernelProcess
from mmfs import compiled

kind, where = sys.argv[1:3]
if kind == "folder":
    compiled.FOLDER = Path(where)
else:  # PyTorch's tensors cannot be read by another process
    process = KernelProcess(shlex.split(where))
    compiled.library = cache(lambda instruction_set: process)
    compiled.describe_tensor = cache(lambda: None)
sys.exit(pytest.main(sys.argv[3:]))
""".format(root=str(ROOT), tests=str(ROOT / "tests"))


def run_compiled_tests(
    where: Path | Sequence[str],
    *selection: str,
    begin: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """test_compiled.py and, with libraries of this process, test_compiled_layer.py.

    Args:
        where: the folder of the libraries, or the command of a `kernel_process.KernelProcess`.
        selection: pytest's arguments.
        begin: what the command begins with.
        environment: of the process; None: this one's.
    """
    place = ["folder", str(where)] if isinstance(where, Path) else ["command", shlex.join(where)]
    tests = [str(TESTS), str(LAYER_TESTS)] if isinstance(where, Path) else [str(TESTS)]
    arguments = [sys.executable, "-c", RUN, *place, *tests, "-q", "-s", "-p", "no:cacheprovider", *selection]
    command = [*begin, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def assert_passed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
