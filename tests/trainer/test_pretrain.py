"""The command line: what it says, writes and returns."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from trainer.errors import UsageError
from trainer.pretrain import main
from trainer.run import choose_device
from trainer.step import checkpoint
from whole_runs import events, steps

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600
"""For what takes seconds on a free machine."""


def test_a_dry_run_reports_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tiny", "--dry_run", "2"]) == 0
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert "main 2/2" in said
    assert all(f"\n{fact} " in said for fact in ("rows", "padding", "speed", "data", "peak memory", "whole run"))
    assert main(["tiny", "--dry_run", "0"]) == 2
    assert "dry_run is 0; expected 1 or more steps" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["nonsense", pytest.param("cuda:99", id="no-such-gpu")])
def test_a_device_that_is_not_there(tmp_path, capsys, device):
    assert main(["tiny", "--out", str(tmp_path / "x"), "--device", device]) == 2
    said = capsys.readouterr().err
    assert f"device is '{device}', which PyTorch cannot use here" in said
    assert said.endswith(". Try --device auto.\n")
    assert ".." not in said


def test_more_processes_than_gpus_are_refused(monkeypatch):
    launched = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)  # there is no GPU to make one on
    with pytest.raises(
        UsageError, match=r"device is 'cuda:0', and torchrun started 3 processes; expected auto or cuda"
    ):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"started 3 processes on a machine whose GPUs are 2.* --nproc-per-node 2"):
        choose_device("auto")


def test_bad_gradients_end_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    losses = MMInterleaved.text_losses
    monkeypatch.setattr(MMInterleaved, "text_losses", lambda *arguments: losses(*arguments) * float("nan"))
    out = tmp_path / "nan"
    options = ("--encoder_pretraining.num_steps", "0", "--max_skipped_in_a_row", "1")
    assert main(["tiny", "--out", str(out), *options]) == 1
    sentence = capsys.readouterr().err
    assert "The gradient norm is nan at step 1 of phase 'main'" in sentence
    assert "There is no checkpoint yet" in sentence
    assert " of emoji" in sentence
    assert events(out) == ["start", "skipped", "skipped", "stopped"]


def test_a_full_memory_ends_the_command_with_three_ways_out(tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails follow.")

    monkeypatch.setattr(MMInterleaved, "read", full)
    options = ("--encoder_pretraining.num_steps", "0", "--memory.micro_batch_rows", "2")
    assert main(["tiny", "--out", str(tmp_path / "full"), *options]) == 1
    sentence = capsys.readouterr().err
    assert "The memory is used up: CUDA out of memory. Tried to allocate 2.00 GiB. Try" in sentence
    knobs = [
        "--memory.image_chunk 1",
        "--memory.micro_batch_rows 1",
        "--memory.activation_checkpointing '[language_model",
    ]
    assert sorted(knobs, key=sentence.index) == knobs
    assert events(tmp_path / "full") == ["start", "stopped"]


def test_a_memory_that_the_update_fills_has_other_ways_out(tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails follow.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    options = ("--encoder_pretraining.num_steps", "0")
    assert main(["tiny", "--out", str(tmp_path / "full"), *options]) == 1
    sentence = capsys.readouterr().err
    assert "It was the optimizer's update" in sentence
    assert "--memory.image_chunk" not in sentence


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        pytest.param(signal.SIGTERM, 3, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="Ctrl-C", marks=pytest.mark.slow),  # a second start of Python and torch
    ],
)
def test_a_signal_ends_a_real_process_with_a_complete_checkpoint(tmp_path, number, exit_code):
    out = tmp_path / "run"
    options = ("--out", str(out), "--num_steps", "100000", "--encoder_pretraining.num_steps", "0", "--num_workers", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.pretrain", "tiny", *options, "--checkpoint.every", "100000"],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count('"main"') < 3:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        os.killpg(process.pid, number)  # a terminal and a batch system signal the data worker too
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == exit_code, said
    assert "Traceback" not in said
    assert f"{number.name}: stopped after step" in said
    newest = checkpoint.find_latest(out / "checkpoints")
    assert newest.step == steps(out)[-1]["step"] >= 3
    assert (out / "checkpoints" / "LATEST").read_text().strip() == newest.path.name
    assert json.loads((newest.path / checkpoint.MANIFEST).read_text())["step"] == newest.step


@pytest.mark.parametrize(
    ("option", "url", "reason"),
    [
        ("--out", "ftp://host/run", "expected a file or folder here, or a URL that begins with s3://"),
        ("--init", "ftp://host/run", "expected a file or folder here, or a URL that begins with s3://"),
        ("--resume", "ftp://host/run", "expected a file or folder here, or a URL that begins with s3://"),
        ("--out", "hf://owner/name", "expected a directory here, or a URL that begins with s3:// or gs://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_anything_is_written(
    option, url, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([option, url]) == 2
    assert f"{option} is {url}; {reason}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
