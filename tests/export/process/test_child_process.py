import os
import subprocess
import sys
from pathlib import Path

import pytest

from directory_locks import is_held, wait_for
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


def test_a_child_goes_with_its_parent_and_holds_its_lock_till_then(module, tmp_path: Path) -> None:
    """Even one that is deep in a library, where Python cannot notice anything."""
    mark, locked = tmp_path / "mark", tmp_path / "locked"
    locked.mkdir()
    name = module(
        "import ctypes, os, pathlib, sys\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "ctypes.PyDLL(None).sleep(600)  # which keeps Python's lock\n"
    )
    parent = (
        "import pathlib, sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from export.process.child_process import run_child\n"
        "from models.directory_lock import directory_lock\n"
        f"with directory_lock(pathlib.Path({str(locked)!r})):\n"
        f"    run_child({name!r}, [], heartbeat=lambda *_: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(lambda: mark.exists() and mark.read_text() != "")
    child = int(mark.read_text())
    process.kill()  # as by the system when memory runs out
    process.wait()
    wait_for(lambda: not is_running(child))
    wait_for(lambda: not is_held(locked))


def test_a_child_whose_parent_has_ended_does_not_begin() -> None:
    program = [sys.executable, "-m", "export.process.guarded", "1", "this"]
    assert subprocess.run(program, cwd=ROOT, capture_output=True).returncode == 1
    own = [sys.executable, "-m", "export.process.guarded", str(os.getpid()), "this"]
    assert "Zen of Python" in subprocess.run(own, cwd=ROOT, capture_output=True, text=True).stdout


def is_running(process: int) -> bool:
    """Not one that has ended and whose status nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
