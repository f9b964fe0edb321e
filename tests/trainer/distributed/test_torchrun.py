"""The real model under `torchrun`, stopped by a batch system and finished by one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import MMInterleaved
from trainer.logging.log_file import read_log
from trainer.pretrain import main
from trainer.step import checkpoint

ROOT = Path(__file__).parents[3]
PATIENCE_S = 600
"""For what takes seconds on a free machine."""

SETTINGS = ("tiny", "--data.num_rows", "4", "--num_steps", "8", "--encoder_pretraining.num_steps", "1")


def losses(out):
    return [(r["phase"], r["step"], r["loss"], r["grad_norm"]) for r in read_log(out) if "event" not in r]


@pytest.mark.slow  # three starts of Python and torch
def test_two_processes_begin_and_one_finishes(tmp_path):
    """SIGTERM goes to the whole group, and `torchrun` sends it on, so that all get it twice; mostly, samples are being
    made then."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*SETTINGS, "--out", str(alone), "--memory.micro_batch_rows", "1"]) == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher = subprocess.Popen(
        [
            sys.executable,
            *torchrun,
            "-m",
            "trainer.pretrain",
            *SETTINGS,
            "--out",
            str(shared),
            "--logging.sample_every",
            "1",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(PATIENCE_S)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not (shared / "log.jsonl").exists() or '"main"' not in (shared / "log.jsonl").read_text():
            assert launcher.poll() is None, launcher.stdout.read()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        os.killpg(launcher.pid, signal.SIGTERM)
        said, _ = launcher.communicate(timeout=2 * PATIENCE_S)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    assert said.count("SIGTERM: stopped after step") == 1, said
    assert said.count("2 processes, each on 1 CPU thread;") == 1  # one process talks
    stopped = checkpoint.find_latest(shared / "checkpoints")
    assert 1 <= stopped.step == losses(shared)[-1][1] < 8
    assert (shared / "checkpoints" / "LATEST").read_text().strip() == stopped.path.name
    assert not list((shared / "checkpoints").glob(".unfinished*"))
    assert not (shared / "model").exists()

    assert main([*SETTINGS, "--out", str(shared)]) == 0
    assert [step[:2] for step in losses(shared)] == [step[:2] for step in losses(alone)]
    for (*where, loss, norm), (*_, expected_loss, expected_norm) in zip(losses(shared), losses(alone), strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5), where
        assert norm == pytest.approx(expected_norm, rel=1e-3), where
    MMInterleaved.from_pretrained(shared / "model")
