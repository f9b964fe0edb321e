"""Where a run goes on, and what it refuses to overwrite."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from trainer.pretrain import main
from trainer.run_directory import require_room, run_directory_lock, save_model
from whole_runs import assert_same, copy_of, snapshot, steps

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(["--resume", "none"], "already holds a run, and nothing of it was touched. Go on", id="new"),
        pytest.param(["--seed", "1"], "(there -> now): seed: 0 -> 1. Go on with the same", id="changed"),
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


@pytest.mark.own_allocator
def test_a_branch_starts_from_a_checkpoint_of_another_run(finished, tmp_path):
    out = tmp_path / "branch"
    older = finished / "checkpoints" / "main-0000003"
    assert (
        main(
            ["tiny", "--out", str(out), "--resume", str(older), "--checkpoint.keep_latest", "1", "--logging.every", "1"]
        )
        == 0
    )
    assert steps(out) == [s for s in steps(finished) if s["phase"] == "main" and s["step"] > 3]
    assert_same(
        load_file(out / "model" / "model.safetensors"), load_file(finished / "model" / "model.safetensors"), "model"
    )


def test_a_finished_run_stays_as_it_is(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "checkpoints" / "main-0000003")
    for resume in ([], ["--resume"], ["--resume", str(out)]):
        before = snapshot(out)
        assert main(["tiny", "--out", str(out), *resume]) == 0
        [said] = capsys.readouterr().out.splitlines()
        assert said.startswith(f"The run in {out} is finished; its model is {out / 'model'}. For a new one,")
        assert snapshot(out) == before
    shutil.rmtree(out / "checkpoints")  # to save space
    before = snapshot(out)
    assert main(["tiny", "--out", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["tiny", "--out", str(out), "--seed", "1"]) == 2
    assert f"from those of {out} (there -> now): seed: 0 -> 1." in capsys.readouterr().err
    assert snapshot(out) == before


def test_an_unfinished_run_goes_on_and_says_so(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "model")  # killed while it was written
    assert main(["tiny", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"The run in {out} is not finished: it goes on after step 6 of phase 'main'.")
    assert (out / "model" / "config.json").is_file()
    assert steps(out) == steps(finished)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.own_allocator
def test_a_flipped_bit_costs_steps_and_changes_nothing(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "model")
    newest = out / "checkpoints" / "main-0000006"
    flip(newest / "state" / "__0_0.distcp")
    untouched = snapshot(out)
    assert main(["tiny", "--out", str(out), "--resume", str(newest)]) == 2  # named: not another one in its place
    told = capsys.readouterr().err
    assert f"{newest} is damaged: state/__0_0.distcp does not have the content that was written" in told
    assert snapshot(out) == untouched
    assert main(["tiny", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{newest} is damaged: state/__0_0.distcp")
    assert "It was put aside as .damaged-main-0000006. The run" in told
    assert "it goes on after step 3 of phase 'main'" in told
    assert steps(out) == steps(finished)
    name = "model.safetensors"
    assert_same(load_file(out / "model" / name), load_file(finished / "model" / name), "model")


def test_the_only_checkpoint_is_not_given_up_because_a_bit_flipped(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "main-0000003")
    flip(out / "checkpoints" / "main-0000006" / "state" / "__0_0.distcp")
    before = snapshot(out)
    assert main(["tiny", "--out", str(out)]) == 2
    assert "there is no other beside it. To begin again from the start, remove it." in capsys.readouterr().err
    assert snapshot(out) == before


def test_a_damaged_checkpoint_is_no_reason_to_begin_again(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "main-0000003")
    (out / "checkpoints" / "main-0000006" / "checkpoint.json").write_text("[]")
    before = snapshot(out)
    assert main(["tiny", "--out", str(out)]) == 2
    assert "main-0000006 is no complete checkpoint: a file of it is missing or not as it was" in capsys.readouterr().err
    assert snapshot(out) == before


def test_what_is_passed_over_is_told(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    shutil.rmtree(out / "model")
    (out / "checkpoints" / "main-0000006" / "checkpoint.json").write_text("[]")
    assert main(["tiny", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "it goes on after step 3" in told
    assert "Passed over, since a file of it is missing or not as it was written: main-0000006." in told


def test_a_finished_run_keeps_no_checkpoint_that_a_killed_cleanup_left(finished, tmp_path):
    out = copy_of(finished, tmp_path)
    checkpoints = out / "checkpoints"
    shutil.copytree(checkpoints / "main-0000003", checkpoints / ".unfinished-main-0000001")
    names = ["LATEST", "main-0000006"]
    assert main(["tiny", "--out", str(out), "--checkpoint.keep_latest", "1"]) == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == names


def test_a_killed_save_leaves_one_whole_model(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Model:
        def __init__(self, number):
            self.number = number

        def save_pretrained(self, directory):
            directory.mkdir()
            for name in ("config.json", "model.safetensors"):
                (directory / name).write_text(str(self.number))

    directory, number, kills = tmp_path / "model", 0, 0
    while True:
        save_model(Model(0), directory)
        left = [number]

        def then_killed(function, left=left):
            def called(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return function(*arguments, **options)

            return called

        try:
            with monkeypatch.context() as patch:
                for name in ("mkdir", "rename", "unlink", "rmdir", "open"):
                    patch.setattr(os, name, then_killed(getattr(os, name)))
                save_model(Model(1), directory)
        except Killed:
            kills += 1
        else:
            break
        if directory.exists():
            contents = [file.read_text() for file in directory.iterdir()]
            assert contents in (["0", "0"], ["1", "1"])
        else:
            assert (tmp_path / ".model").is_dir()
            assert len(list((tmp_path / ".model.replaced").iterdir())) == 2
        number += 1
    assert kills > 6
    save_model(Model(2), directory)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_run_without_a_checkpoint_begins_again_with_the_same_settings_alone(tmp_path, capsys):
    out = tmp_path / "new"
    options = ("--out", str(out), "--num_steps", "1", "--encoder_pretraining.num_steps", "0")
    assert main(["tiny", *options, "--resume", "none"]) == 0
    assert "holds" not in capsys.readouterr().out
    shutil.rmtree(out / "checkpoints")
    shutil.rmtree(out / "model")
    before = snapshot(out)
    assert main(["tiny", *options, "--seed", "1"]) == 2
    assert f"from those of {out} (there -> now): seed: 0 -> 1." in capsys.readouterr().err
    assert snapshot(out) == before
    assert main(["tiny", *options]) == 0
    assert f"The run in {out} ended before its first checkpoint: it begins again." in capsys.readouterr().out
    assert [(s["phase"], s["step"]) for s in steps(out)] == [("main", 1)]
    shutil.rmtree(out / "checkpoints")
    shutil.rmtree(out / "model")
    (out / "config.yaml").unlink()
    assert main(["tiny", *options]) == 2
    assert "neither a complete checkpoint nor config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "/below"], ids=["a-file", "below-a-file"])
def test_a_file_is_no_run_directory(tmp_path, capsys, below):
    file = tmp_path / "notes.txt"
    file.touch()
    assert main(["tiny", "--out", f"{file}{below}"]) == 2
    assert f"{file}{below}, which cannot be made a directory: {file} is a file. Name" in capsys.readouterr().err


def test_what_cannot_be_made_is_told_without_a_traceback(capsys):
    assert main(["tiny", "--out", "/proc/none"]) == 2
    assert "--out is /proc/none, which cannot be made a directory: No such file" in capsys.readouterr().err


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path, capsys):
    for name in ("thesis.tex", ".git", "STOP", "slurm-7.out", "config.yaml.part"):
        (tmp_path / name).touch()
    before = snapshot(tmp_path)
    assert main(["tiny", "--out", str(tmp_path)]) == 2
    assert f"--out is {tmp_path}, which holds something else: thesis.tex. Nothing" in capsys.readouterr().err
    assert snapshot(tmp_path) == before
    (tmp_path / "thesis.tex").unlink()
    require_room(tmp_path)


def test_a_directory_that_another_process_trains_in_is_left_alone(tmp_path, capsys):
    out = tmp_path / "run"
    holding = (
        "import sys; from pathlib import Path; from trainer.run_directory import run_directory_lock\n"
        "with run_directory_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(out)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        assert main(["tiny", "--out", str(out)]) == 2
        assert "Another process trains in" in capsys.readouterr().err
        assert [file.name for file in out.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        with run_directory_lock(out):
            pass
    finally:
        other.kill()
        other.communicate()
