"""Whole runs of the `tiny` recipe, with the real model and the real data."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment import ProductArguments
from models import MMInterleaved
from trainer.data.labelled_scenes import LabelledScenes
from trainer.data.stream import Stream
from trainer.pretrain import main
from trainer.recipes import tiny
from trainer.step import checkpoint
from whole_runs import assert_same, copy_of, events, steps, tensors_in


def test_a_run_leaves_everything_behind(finished):
    config = tiny()
    assert {path.name for path in finished.iterdir()} == {
        *("checkpoints", "config.yaml", "index.html", "log.jsonl", "model", "tensorboard")
    }
    assert [(s["phase"], s["step"]) for s in steps(finished)] == [
        *(("encoder", step) for step in range(1, config.encoder_pretraining.num_steps + 1)),
        *(("main", step) for step in range(1, config.num_steps + 1)),
    ]
    assert all(s["loss_text"] > 0 and s["num_tokens"] > 0 for s in steps(finished) if s["phase"] == "main")
    assert any(s["loss_image"] for s in steps(finished) if s["phase"] == "main")
    assert events(finished) == ["start", "done"]
    newest = checkpoint.find_latest(finished / "checkpoints")
    assert (newest.phase, newest.step) == ("main", config.num_steps)


@pytest.mark.own_allocator
def test_matrix_products_read_no_memory_that_pytorch_did_not_allocate(tmp_path):
    """Theirs alone depend on where their arguments begin. That is the same in a run that is resumed, since PyTorch's
    own tensors all begin alike; images in NumPy's memory and weights in mapped files do not."""
    with ProductArguments() as arguments:
        options = ["--encoder_pretraining.num_steps", "1", "--num_steps", "1"]
        assert main(["tiny", "--out", str(tmp_path / "run"), *options]) == 0
    assert arguments.num > 1000
    assert arguments.elsewhere == []


@pytest.mark.own_allocator
def test_samples_change_nothing(finished, tmp_path):
    out = tmp_path / "sampled"
    assert main(["tiny", "--out", str(out), "--logging.sample_every", "4"]) == 0
    assert steps(out) == steps(finished)
    assert sorted(file.name for file in (out / "samples").iterdir()) == ["0000004.png", "0000006.png"]
    assert "samples after step 6" in (out / "index.html").read_text()


def test_the_model_directory_is_the_averaged_model(finished):
    model = MMInterleaved.from_pretrained(finished / "model")
    assert model.processor.decode_text(model.processor.encode_text("a snail")) == "a snail"
    tensors = tensors_in(finished / "checkpoints" / f"main-{tiny().num_steps:07d}")
    last, average = (
        {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
        for kind in ("weights/", "average/")
    )
    moved = 0
    for name, parameter in model.named_parameters():
        assert name in average or not parameter.requires_grad, name
        if name in average:
            assert torch.equal(parameter, average[name]), name
            moved += not torch.equal(parameter, last[name])
    assert moved > 50


def interrupt_at(monkeypatch, stream: type, method: str, stop_step: int) -> None:
    """SIGTERM while the first rows of a step are made, once, for a second one acts; the run ends after that step."""
    make = getattr(stream, method)

    def make_and_interrupt(self, step, rows):
        if (step, rows.start) == (stop_step, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return make(self, step, rows)

    monkeypatch.setattr(stream, method, make_and_interrupt)


@pytest.mark.own_allocator
@pytest.mark.parametrize(
    ("stream", "method", "stop_step", "phase"),
    [
        pytest.param(Stream, "compact_part", 2, "main", id="main"),
        pytest.param(LabelledScenes, "__call__", 0, "encoder", id="encoder"),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    finished, tmp_path, monkeypatch, capsys, stream, method, stop_step, phase
):
    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        interrupt_at(patch, stream, method, stop_step)
        assert main(["tiny", "--out", str(out)]) == 3
    assert f"SIGTERM: stopped after step {stop_step + 1} of phase '{phase}'" in capsys.readouterr().out
    newest = checkpoint.find_latest(out / "checkpoints")
    assert (newest.phase, newest.step) == (phase, stop_step + 1)
    assert not (out / "model").exists()

    torch.manual_seed(12345)
    assert main(["tiny", "--out", str(out)]) == 0
    assert steps(out) == steps(finished)
    assert events(out) == ["start", "stopped", "start", "done"]
    file = Path("model") / "model.safetensors"
    assert_same(load_file(out / file), load_file(finished / file), str(file))
    name = Path("checkpoints") / f"main-{tiny().num_steps:07d}"
    assert_same(tensors_in(out / name), tensors_in(finished / name), "state")


def test_a_dry_run_that_is_stopped_in_its_first_step_has_nothing_to_tell(tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, Stream, "compact_part", 0)
    options = (
        "--memory.micro_batch_rows",
        "1",
        "--encoder_pretraining.num_steps",
        "0",
        "--out",
        str(tmp_path / "none"),
    )
    assert main(["tiny", "--dry_run", "2", *options]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "no step was made"


@pytest.mark.own_allocator
def test_killed_and_resumed_forgets_the_steps_after_the_checkpoint(finished, tmp_path):
    out = copy_of(finished, tmp_path)  # as kill -9 after step 5 would leave it, with the checkpoint of step 3
    shutil.rmtree(out / "checkpoints" / "main-0000006")
    shutil.rmtree(out / "model")
    (out / "checkpoints" / ".unfinished-main-0000006" / checkpoint.STATE).mkdir(parents=True)
    (out / "checkpoints" / ".unfinished-main-0000006" / checkpoint.STATE / "__0_0.distcp").write_bytes(b"half")
    assert main(["tiny", "--out", str(out)]) == 0
    assert steps(out) == steps(finished)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"LATEST", "main-0000003", "main-0000006"}


@pytest.mark.own_allocator
def test_a_pause_by_the_clock_leaves_a_model_and_goes_on(finished, tmp_path, capsys):
    out = tmp_path / "paused"
    no_time = ("--max_minutes", "1e-9")
    assert main(["tiny", "--out", str(out), *no_time]) == 0  # in the encoder's phase: no model yet
    assert not (out / "model").exists()
    assert main(["tiny", "--out", str(out), *no_time]) == 0  # the encoder's last step, the first of main
    assert "paused after step 1 of 6 of phase 'main'" in capsys.readouterr().out
    MMInterleaved.from_pretrained(out / "model")
    assert main(["tiny", "--out", str(out)]) == 0
    assert steps(out) == steps(finished)
    assert events(out) == ["start", "paused", "start", "paused", "start", "done"]
