"""Terminals that close, readers that go away, names that no terminal should obey: in real commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.step import checkpoint
from whole_runs import events, steps

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600

LONG_RUN = (
    *("trainer.pretrain", "tiny", "--encoder_pretraining.num_steps", "0", "--num_steps", "100000"),
    *("--num_threads", "1", "--num_workers", "0", "--checkpoint.every", "100000", "--logging.every", "1"),
)

COMMANDS = {
    "trainer.pretrain": ("tiny", "--out", "{}"),
    "trainer.finetune": ("toy_vqa", "--out", "{}"),
    "trainer.evaluate": ("{}",),
    "trainer.ablate": ("mmfs", "--out", "{}/out"),
    "trainer.demo": ("--out", "{}/out"),
    "trainer.ship": ("{}", "--out", "{}", "--command", "x"),
    "trainer.run_page": ("{}",),
    "trainer.data.index": ("{}", "--out", "{}"),
    "trainer.data.preview": ("--task", "story", "--out", "{}.png"),
    "export.trt": ("{}", "--out", "{}"),
    "export.run": ("{}",),
    "export.bench": ("{}", "--model", "{}"),
    "export.verified": ("{}",),
    "models.convert": ("{}", "--out", "{}"),
}
"""With what takes a path as that."""

QUICK = ("trainer.run_page", "trainer.data.index", "trainer.data.preview", "export.verified")
"""Those that start in a moment; the others are slow tests."""


@contextmanager
def training(out: Path, **options) -> Iterator[subprocess.Popen]:
    """A run that has made a step; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", *LONG_RUN, "--out", str(out)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        **options,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not (out / "log.jsonl").exists() or '"step": 1' not in (out / "log.jsonl").read_text():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def assert_has_stopped(process: subprocess.Popen, out: Path, reason: str) -> None:
    """With a complete checkpoint of its last step, and without a traceback."""
    said = process.stderr.read()
    assert (process.wait(PATIENCE_S), said) == (3, "")
    assert checkpoint.find_latest(out / "checkpoints").step == steps(out)[-1]["step"]
    assert events(out)[-1] == "stopped"
    last = (out / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["reason"] == reason
    assert (out / "index.html").is_file()


@pytest.mark.slow
def test_a_run_whose_reader_has_gone_stops_with_a_checkpoint(tmp_path):
    with training(tmp_path / "run", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1`
        assert_has_stopped(process, tmp_path / "run", "CLOSED_OUTPUT")


@pytest.mark.slow
def test_a_run_whose_terminal_has_gone_stops_with_a_checkpoint(tmp_path):
    """The system sends SIGHUP, and what is written to the terminal fails."""
    ours, theirs = os.openpty()
    with training(tmp_path / "run", stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        os.close(ours)
        os.killpg(process.pid, signal.SIGHUP)
        said = process.stderr.read()
        assert (process.wait(PATIENCE_S), said) == (3, "")
    reason = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["reason"]
    assert reason in ("SIGHUP", "CLOSED_OUTPUT"), "whichever came first"
    assert checkpoint.find_latest(tmp_path / "run/checkpoints") is not None


def result_of(command: str, path: str, **options) -> subprocess.CompletedProcess:
    arguments = [argument.format(path) for argument in COMMANDS[command]]
    return subprocess.run(
        [sys.executable, "-m", command, *arguments], cwd=ROOT, capture_output=True, timeout=PATIENCE_S, **options
    )


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,)) for name in COMMANDS]
)
def test_strange_names_are_refused_in_a_sentence(tmp_path, command):
    """Of 300 characters, with an escape sequence that would colour the rest; and in no encoding."""
    for name in (f"red\x1b[31m\x1b]0;title\x07{'n' * 300}", os.fsdecode(b"caf\xe9")):
        result = result_of(command, str(tmp_path / name))
        said = (result.stdout + result.stderr).decode()
        assert result.returncode in (1, 2), said
        assert "Traceback" not in said
        assert "\x1b" not in said
        assert "\x07" not in said
        assert said.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("made", ["STOP", ".lock"])
def test_a_directory_in_the_place_of_a_file(tmp_path, made):
    out = tmp_path / "run"
    (out / made).mkdir(parents=True)
    result = result_of("trainer.pretrain", str(out))
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
    assert made.encode() in result.stderr
    assert [path.name for path in out.iterdir()] == [made]


@pytest.mark.slow
def test_a_run_whose_output_is_closed_ends_as_usual(tmp_path):
    out = tmp_path / "run"
    whole = [sys.executable, "-m", *LONG_RUN, "--out", str(out), "--num_steps", "1"]
    result = subprocess.run(whole, cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert (result.returncode, result.stderr) == (0, b"")
    assert events(out) == ["start", "done"]
