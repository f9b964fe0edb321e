import json
from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from trainer.evaluate import main
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.settings import Settings

SHORT = ("--tasks", "read", "--count", "1", "--num-workers", "0")


def test_the_command_writes_all_that_is_needed_to_do_it_again(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "scores.json"
    arguments = [
        "--tasks",
        "read",
        "draw",
        "--count",
        "2",
        "--num-steps",
        "1",
        "--seed",
        "5",
        "--num-workers",
        "1",
        "--device",
        "cpu",
        "--out",
        str(file),
    ]
    assert main([str(untrained), *arguments]) == 0
    assert "exact number" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert set(written["tasks"]) == {"read", "draw"}
    assert [one["key"] for one in written["tasks"]["read"]["documents"]] == ["emoji/read/val/0", "emoji/read/val/1"]
    assert len(written["tasks"]["draw"]["documents"]) == 1
    assert len(written["weights"]["sha256"]) == 64
    model = MMInterleaved.from_pretrained(untrained)
    here = evaluate(model, Settings(**{**written["settings"], "tasks": ("read",)}), weights={}).to_dict()
    assert here["tasks"]["read"]["documents"] == written["tasks"]["read"]["documents"], "a worker answers the same"
    assert (written["settings"]["seed"], written["settings"]["guidance_scale"]) == (5, Settings.guidance_scale)
    assert written["environment"]["torch"] == torch.__version__
    assert written["device"] == "cpu"
    assert {"mean", "standard_error", "chance", "ceiling", "num_documents"} == set(
        written["tasks"]["read"]["scores"]["number"]
    )


def test_wrong_use_is_explained(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "nothing is no directory, and no name on the hub (owner/name) either" in capsys.readouterr().err
    assert main([str(untrained), "--tasks", "sing"]) == 2
    assert "expected some of caption" in capsys.readouterr().err
    assert main([str(untrained), *SHORT, "--device", "cuda:99"]) == 2
    assert "device is 'cuda:99', which PyTorch cannot use here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("{tmp_path}", "which is a directory; expected a file to write"),
        ("{tmp_path}/notes.txt/scores.json", "which cannot be written: "),
        ("/proc/none/scores.json", "which cannot be written: No such file"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_evaluation(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, sentence: str
) -> None:
    (tmp_path / "notes.txt").touch()
    assert main([str(untrained), *SHORT, "--out", out.format(tmp_path=tmp_path)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert not said.out


def test_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "answered in writing; default: 48" in said
    assert "denoising steps an image; default: 24" in said
    assert "1 is none; default: 1.0" in said
    assert "of the images' noise; default: 0" in said
    assert "--device DEVICE auto is the GPU where there is one; or cpu, cuda, cuda:1, ...; default: auto" in said


@pytest.mark.gpu
def test_a_gpu_examines_alone(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scores.json"
    options = ["--tasks", "read", "draw", "--count", "2", "--num-steps", "1", "--out", str(file)]
    assert main([str(untrained), *options, "--num-workers", "2"]) == 2
    assert "--num-workers is 2, with --device cuda:0; expected 0" in capsys.readouterr().err
    assert main([str(untrained), *options]) == 0
    assert json.loads(file.read_text())["device"] == torch.cuda.get_device_name(0)


def test_an_option_under_its_old_name_is_refused_with_the_new_one(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["model", "--num_pictures", "3", "--guidance_scale=2"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "--num_pictures is now called --num-images. --guidance_scale is now called --guidance-scale." in said
