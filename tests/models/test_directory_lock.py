import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from directory_locks import is_held, wait_for
from models.directory_lock import LOCK_FILE, DirectoryInUse, directory_lock, held_descriptors

ROOT = Path(__file__).parents[2]

HOLD = """
import os, sys
from pathlib import Path
from models.directory_lock import directory_lock

with directory_lock(Path(sys.argv[1])):
    if os.fork() == 0:  # a child has let go once Python runs in it, not when fork returns in its parent
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
"""


def test_a_directory_has_one_owner_at_a_time_and_is_left_as_it_was(tmp_path: Path) -> None:
    with directory_lock(tmp_path):
        assert os.listdir(tmp_path) == [LOCK_FILE]
        with pytest.raises(DirectoryInUse, match="Another process is writing into"), directory_lock(tmp_path):
            raise AssertionError("two owners")
        assert is_held(tmp_path), "who was refused took nothing away"
    assert not is_held(tmp_path)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="There is no directory"), directory_lock(tmp_path / "missing"):
        raise AssertionError("no directory")


def test_the_lock_goes_with_a_directory_that_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with directory_lock(tmp_path / "work"):
        (tmp_path / "work").rename(tmp_path / "out")
        assert is_held(tmp_path / "out")
        (tmp_path / "work").mkdir()
        assert not is_held(tmp_path / "work"), "another directory"
    assert os.listdir(tmp_path / "out") == []


def test_a_directory_may_be_removed_while_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with directory_lock(tmp_path / "work"):
        (tmp_path / "work" / LOCK_FILE).unlink()
        (tmp_path / "work").rmdir()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), directory_lock(tmp_path):
        raise OSError("disk full")
    assert not is_held(tmp_path)


def test_a_killed_process_lets_go_even_if_its_workers_live_on(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(other.stdout.readline())
    try:
        assert is_held(tmp_path)
        other.kill()
        other.wait()
        os.kill(worker, 0)  # it lives
        assert not is_held(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        other.kill()
        other.stdin.close()
        other.stdout.close()


def test_what_cannot_be_locked_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    sentence = r"its \.lock cannot be opened: Is a directory\. Expected a file, or nothing"
    with pytest.raises(ValueError, match=sentence), directory_lock(tmp_path):
        raise AssertionError("locked")
    assert held_descriptors() == ()


def test_a_program_that_inherits_the_lock_holds_it_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys\nfrom pathlib import Path\n"
        "from models.directory_lock import directory_lock, held_descriptors\n"
        "with directory_lock(Path(sys.argv[1])):\n"
        "    subprocess.Popen(['cat'], pass_fds=held_descriptors())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.wait()
        assert is_held(tmp_path)
        other.stdin.close()
        assert other.stdout.read() == b"", "it ends with its input"
    wait_for(lambda: not is_held(tmp_path))
