"""Whole runs of the `tiny` recipe, with the real model and the real data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader, load

from models import MMInterleaved
from trainer import checkpoint
from trainer.data.labelled_scenes import LabelledScenes
from trainer.data.stream import Stream
from trainer.distributed import joined
from trainer.metrics import read_log
from trainer.pretrain import main
from trainer.recipes import tiny

ROOT = Path(__file__).parents[2]
TIMES = {"step_s", "data_wait_s", "time_s"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["tiny", "--out", str(out)]) == 0
    return out


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def steps(out: Path) -> list[dict]:
    """The log's steps, without the times."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_log(out) if "event" not in record]


def events(out: Path) -> list[str]:
    return [record["event"] for record in read_log(out) if "event" in record]


def assert_same(left, right, where: str) -> None:
    """Bit for bit, tensors in nested containers included."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert left == right, where


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


def test_samples_change_nothing(finished, tmp_path):
    out = tmp_path / "sampled"
    assert main(["tiny", "--out", str(out), "--sample_every", "4"]) == 0
    assert steps(out) == steps(finished)
    assert sorted(file.name for file in (out / "samples").iterdir()) == ["0000004.png", "0000006.png"]
    assert "samples after step 6" in (out / "index.html").read_text()


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, by name."""
    reader = FileSystemReader(path / checkpoint.STATE)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.zeros(about.size, dtype=about.properties.dtype) for name, about in stored.items()}
    with joined(torch.device("cpu")):
        load(tensors, storage_reader=reader)
    return tensors


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
    """SIGTERM while the batch of a step is made; the run ends after that step."""
    make = getattr(stream, method)

    def make_and_interrupt(self, step, *rows):
        if step == stop_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(self, step, *rows)

    monkeypatch.setattr(stream, method, make_and_interrupt)


@pytest.mark.parametrize(
    ("stream", "method", "stop_step", "phase"),
    [
        pytest.param(Stream, "part", 2, "main", id="main"),
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
    assert main(["tiny", "--out", str(out), "--resume"]) == 0
    assert steps(out) == steps(finished)
    assert events(out) == ["start", "stopped", "start", "done"]
    file = Path("model") / "model.safetensors"
    assert_same(load_file(out / file), load_file(finished / file), str(file))
    name = Path("checkpoints") / f"main-{tiny().num_steps:07d}"
    assert_same(tensors_in(out / name), tensors_in(finished / name), "state")


def test_killed_and_resumed_forgets_the_steps_after_the_checkpoint(finished, tmp_path):
    out = copy_of(finished, tmp_path)  # as kill -9 after step 5 would leave it, with the checkpoint of step 3
    shutil.rmtree(out / "checkpoints" / "main-0000006")
    shutil.rmtree(out / "model")
    (out / "checkpoints" / ".unfinished-main-0000006" / checkpoint.STATE).mkdir(parents=True)
    (out / "checkpoints" / ".unfinished-main-0000006" / checkpoint.STATE / "__0_0.distcp").write_bytes(b"half")
    assert main(["tiny", "--out", str(out), "--resume"]) == 0
    assert steps(out) == steps(finished)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"LATEST", "main-0000003", "main-0000006"}


def test_a_pause_by_the_clock_leaves_a_model_and_goes_on(finished, tmp_path, capsys):
    out = tmp_path / "paused"
    no_time = ("--max_minutes", "1e-9")
    assert main(["tiny", "--out", str(out), *no_time]) == 0  # in the encoder's phase: no model yet
    assert not (out / "model").exists()
    assert main(["tiny", "--out", str(out), *no_time, "--resume"]) == 0  # the encoder's last step, the first of main
    assert "paused after step 1 of 6 of phase 'main'" in capsys.readouterr().out
    MMInterleaved.from_pretrained(out / "model")
    assert main(["tiny", "--out", str(out), "--resume"]) == 0
    assert steps(out) == steps(finished)
    assert events(out) == ["start", "paused", "start", "paused", "start", "done"]


def snapshot(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param([], "already holds a run, and nothing of it was touched. Go on with it: --resume", id="no-resume"),
        pytest.param(["--resume", "--seed", "1"], "(there -> now): seed: 0 -> 1. Resume with the same", id="changed"),
        pytest.param(["--resume", "{out}/checkpoints/main-0000003"], "is not the newest checkpoint", id="older"),
        pytest.param(["--resume", "{out}-missing"], "is neither a complete checkpoint nor a run", id="missing"),
        pytest.param(["--resume", "{other}"], "belongs to another run than the one", id="another-run"),
    ],
)
def test_a_run_is_not_overwritten(finished, tmp_path, capsys, options, sentence):
    out = copy_of(finished, tmp_path)
    before = snapshot(out)
    assert main(["tiny", "--out", str(out), *(text.format(out=out, other=finished) for text in options)]) == 2
    assert sentence in capsys.readouterr().err
    assert snapshot(out) == before


def test_a_branch_starts_from_a_checkpoint_of_another_run(finished, tmp_path):
    out = tmp_path / "branch"
    older = finished / "checkpoints" / "main-0000003"
    assert main(["tiny", "--out", str(out), "--resume", str(older), "--keep", "1", "--log_every", "1"]) == 0
    assert steps(out) == [s for s in steps(finished) if s["phase"] == "main" and s["step"] > 3]
    assert_same(
        load_file(out / "model" / "model.safetensors"), load_file(finished / "model" / "model.safetensors"), "model"
    )


def test_resume_without_anything_starts(finished, tmp_path):
    out = tmp_path / "new"
    no_encoder = ("--encoder_pretraining.num_steps", "0")
    assert main(["tiny", "--out", str(out), "--resume", "--num_steps", "1", *no_encoder]) == 0
    assert [(s["phase"], s["step"]) for s in steps(out)] == [("main", 1)]


def test_init_starts_from_the_weights(finished, tmp_path, capsys):
    out = tmp_path / "continued"
    options = ("--encoder_pretraining.num_steps", "0", "--num_steps", "1", "--optim.lr", "1e-12")
    assert main(["tiny", "--out", str(out), "--init", str(finished / "model"), *options]) == 0
    before, after = (load_file(run / "model" / "model.safetensors") for run in (finished, out))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    capsys.readouterr()
    options = (*options, "--model.language_model.mmfs_every", "1")
    assert main(["tiny", "--out", str(tmp_path / "x"), "--init", str(finished / "model"), *options]) == 2
    assert "(there -> here): language_model.mmfs_every: 2 -> 1" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), "--init", str(tmp_path)]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_parts_are_a_start_for_models_that_differ_elsewhere(tmp_path, capsys):
    encoder, out = tmp_path / "encoder", tmp_path / "bare"
    assert main(["tiny", "--out", str(encoder), "--num_steps", "0"]) == 0
    assert {step["phase"] for step in steps(encoder)} == {"encoder"}
    options = ("--encoder_pretraining.num_steps", "0", "--num_steps", "1", "--optim.lr", "1e-12")
    without = ("--model.language_model.mmfs", "null", "--model.image_decoder.mmfs", "null")
    init = ("--init", str(encoder / "model"))
    parts = ("--init_parts", "[visual_tokenizer, language_model]")
    assert main(["tiny", "--out", str(out), *options, *init, *parts, "--model.image_decoder.mmfs", "null"]) == 0
    origin = f"from random weights and visual_tokenizer, language_model of {encoder / 'model'}"
    assert origin in capsys.readouterr().out
    before, after = (load_file(run / "model" / "model.safetensors") for run in (encoder, out))
    taken = {name for name in before if name.startswith(("visual_tokenizer.", "language_model.", "begin_of_image"))}
    assert "begin_of_image" in taken
    for name in taken:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)
    drawing = "image_decoder.context_proj.weight"  # has no constant start that both would share
    assert not torch.equal(after[drawing], before[drawing])
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, *without, *init, *parts]) == 2
    assert "whose language_model has another shape" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, "--init", str(tmp_path), *parts]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, *parts]) == 2
    assert "init is null; expected a model in init" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_dry_run_reports_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tiny", "--dry-run", "2"]) == 0
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert "main 2/2" in said
    assert all(f"\n{fact} " in said for fact in ("rows", "padding", "speed", "data", "peak memory", "whole run"))
    assert main(["tiny", "--dry-run", "0"]) == 2
    assert "dry-run is 0; expected 1 or more steps" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["nonsense", pytest.param("cuda:99", id="no-such-gpu")])
def test_a_device_that_is_not_there(tmp_path, capsys, device):
    assert main(["tiny", "--out", str(tmp_path / "x"), "--device", device]) == 2
    assert f"device is '{device}', which PyTorch cannot use here" in capsys.readouterr().err


def test_bad_gradients_end_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    loss_sum = MMInterleaved.text_loss_sum
    monkeypatch.setattr(MMInterleaved, "text_loss_sum", lambda *arguments: loss_sum(*arguments) * float("nan"))
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
    options = ("--encoder_pretraining.num_steps", "0", "--micro_batch_rows", "2")
    assert main(["tiny", "--out", str(tmp_path / "full"), *options]) == 1
    sentence = capsys.readouterr().err
    assert "The memory is used up: CUDA out of memory. Tried to allocate 2.00 GiB. Try" in sentence
    knobs = ["--images_at_once 1", "--micro_batch_rows 1", "--recompute '[language_model"]
    assert sorted(knobs, key=sentence.index) == knobs
    assert events(tmp_path / "full") == ["start", "stopped"]


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
        [sys.executable, "-m", "trainer.pretrain", "tiny", *options, "--checkpoint_every", "100000"],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        give_up = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count('"main"') < 3:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        os.killpg(process.pid, number)  # a terminal and a batch system signal the data worker too
        said, _ = process.communicate(timeout=60)
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
