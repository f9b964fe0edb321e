"""Commands that are killed at any of their file operations, and in the middle of a write: the same command goes on, and
makes what it would have made.

In CI at every few operations; `PYTHONPATH=.:tests python -m robustness.test_kills` kills a training at each of them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from robustness.attacked import outcome
from trainer import pretrain
from trainer.run_files import CHECKPOINTS, MODEL, PAGE
from whole_runs import snapshot, steps

TINY = (
    *("tiny", "--encoder_pretraining.num_steps", "0", "--num_steps", "3", "--num_threads", "1", "--num_workers", "0"),
    *("--checkpoint.every", "1", "--checkpoint.keep_latest", "1"),
)
EVERY = 29
"""Operations of a training from one kill to the next, in CI."""


def made_by(run: Path) -> tuple[object, ...]:
    """What of a finished run is the same however often it was killed."""
    newest = [path.name for path in (run / CHECKPOINTS).iterdir()]
    assert (run / PAGE).is_file()
    left_over = [
        path.name for path in run.rglob("*") if path.name.endswith((".part", ".tmp")) or "unfinished" in str(path)
    ]
    assert left_over == []
    return snapshot(run / MODEL), steps(run), sorted(newest)


def train_killed(directory: Path, **kill: int) -> bool:
    """Train, be killed, and go on with the same command; returns whether the kill came."""
    out = directory / "run"
    said = directory / "said.txt"
    arguments = [*TINY, "--out", str(out)]
    was_killed = outcome(pretrain.main, arguments, said, watched=out, **kill) in (-signal.SIGKILL, -signal.SIGXFSZ)
    if was_killed:
        assert outcome(pretrain.main, arguments, said) == 0, said.read_text()
    assert "Traceback" not in said.read_text()
    return was_killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    assert not train_killed(directory)
    return made_by(directory / "run")


@pytest.mark.slow
def test_a_training_that_is_killed_at_file_operations_goes_on(whole, tmp_path):
    kills = 0
    for operation in range(5, 1000, EVERY):
        directory = tmp_path / str(operation)
        directory.mkdir()
        was_killed = train_killed(directory, operation=operation)
        assert made_by(directory / "run") == whole, f"killed before operation {operation}"
        if not was_killed:
            break
        kills += 1
    assert kills >= 3


@pytest.mark.slow
@pytest.mark.parametrize("max_file_bytes", [1000, 800_000, 5_000_000])
def test_a_training_that_is_killed_in_the_middle_of_a_write_goes_on(whole, tmp_path, max_file_bytes):
    """Of the settings, of a checkpoint's table of contents or of its tensors."""
    assert train_killed(tmp_path, max_file_bytes=max_file_bytes)
    assert made_by(tmp_path / "run") == whole


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_end_has_its_page_from_the_same_command(tmp_path):
    out = tmp_path / "run"
    arguments = [*TINY, "--out", str(out)]
    assert outcome(pretrain.main, arguments, tmp_path / "said.txt") == 0
    page = (out / PAGE).read_bytes()
    (out / PAGE).unlink()
    log = (out / "log.jsonl").read_bytes()
    assert outcome(pretrain.main, arguments, tmp_path / "said.txt") == 0
    assert f"wrote {out / PAGE}" in (tmp_path / "said.txt").read_text()
    assert (out / PAGE).read_bytes() == page
    assert (out / "log.jsonl").read_bytes() == log, "nothing was begun"


@pytest.mark.slow
def test_a_log_that_lost_lines_in_a_power_cut_says_so(tmp_path):
    out, said = tmp_path / "run", tmp_path / "said.txt"
    arguments = [*TINY, "--out", str(out)]
    outcome(pretrain.main, arguments, said, watched=out, operation=60)
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    lost = [number for number, line in enumerate(lines) if json.loads(line).get("step") == 1]
    lines[lost[0]] = "\0" * len(lines[lost[0]].strip()) + "\n"
    (out / "log.jsonl").write_text("".join(lines))
    assert outcome(pretrain.main, arguments, said) == 0
    assert "lacks 1 step of phase 'main', between 1 and 1, which were made" in said.read_text()
    assert [record["step"] for record in steps(out)] == [2, 3]


def main() -> int:
    """Kill a training at each of its file operations; returns the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="at each N-th; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this one; default: %(default)s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "whole").mkdir()
        assert not train_killed(Path(name) / "whole")
        expected = made_by(Path(name) / "whole" / "run")
        operation, findings = given.first, 0
        while True:
            directory = Path(name) / str(operation)
            directory.mkdir()
            try:
                was_killed = train_killed(directory, operation=operation)
                assert made_by(directory / "run") == expected
            except AssertionError as error:
                print(f"operation {operation}: {error}", flush=True)
                findings += 1
                was_killed = True
            if not was_killed:
                print(f"{operation} operations; {findings} findings")
                return 1 if findings else 0
            operation += given.every


if __name__ == "__main__":
    sys.exit(main())
