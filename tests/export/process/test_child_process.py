import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export.process.child_process import ROOT, ChildError, run_child


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program where a child finds it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        (tmp_path / "program_of_a_test.py").write_text(source)
        return "program_of_a_test"

    return write


def test_a_sign_of_life_holds_time_and_the_last_line(module, tmp_path: Path) -> None:
    """The program ends when it is told to: at the first heartbeat that holds its line."""
    end = tmp_path / "end"
    name = module(
        "import pathlib, sys, time\n"
        "print('phase', sys.argv[1], flush=True)\n"
        f"while not pathlib.Path({str(end)!r}).exists():\n"
        "    time.sleep(0.01)\n"
    )
    told: list[tuple[float, str]] = []

    def heartbeat(seconds: float, line: str) -> None:
        told.append((seconds, line))
        if line == "phase one":
            end.touch()

    run_child(name, ["one"], heartbeat=heartbeat, interval_s=0.05)
    assert {line for _, line in told} <= {"starting", "phase one"}
    assert [seconds for seconds, _ in told] == sorted(seconds for seconds, _ in told)


def test_library_folders_stand_first(module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    name = module(
        f"import os, pathlib\npathlib.Path({str(tmp_path / 'seen')!r}).write_text(os.environ['LD_LIBRARY_PATH'])"
    )
    run_child(name, [], heartbeat=lambda *_: None, library_folders=[tmp_path])
    assert (tmp_path / "seen").read_text() == f"{tmp_path}{os.pathsep}/elsewhere"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise SystemExit(3)", r"ended with status 3\. It wrote last: nothing"),
        ("print('before')\n1 / 0", r"ended with status 1\. It wrote last: .*before.*ZeroDivisionError"),
        (
            "import os\nprint('deep inside', flush=True)\nos.abort()",
            r"was ended by signal 6\. It wrote last: deep inside",
        ),
    ],
    ids=["status", "exception", "signal"],
)
def test_how_a_process_ended_is_said(module, source: str, message: str) -> None:
    with pytest.raises(ChildError, match=message):
        run_child(module(source), [], heartbeat=lambda *_: None)


def test_the_standard_input_ends_with_the_parent(module, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    name = module(
        "import pathlib, sys\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "mark.write_text('started')\n"
        "sys.stdin.read()\n"
        "mark.write_text('alone')\n"
    )
    parent = (
        "import sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from export.process.child_process import run_child\n"
        f"run_child({name!r}, [], heartbeat=lambda *_: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(mark, "started")
    process.kill()  # as by the system when memory runs out
    process.wait()
    wait_for(mark, "alone")


def wait_for(file: Path, content: str, patience_s: float = 600) -> None:
    end = time.monotonic() + patience_s
    while not (file.exists() and file.read_text() == content):
        assert time.monotonic() < end, f"{file.name} never held {content!r}"
        time.sleep(0.02)
