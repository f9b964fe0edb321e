import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from export.run import main
from models import MMInterleaved

DRAWING = ["--prompt", "draw", "--max-new-tokens", "6", "--num-inference-steps", "2", "--seed", "3"]


def test_a_document_is_written_shown_and_equal_to_pytorchs(
    exported: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "page.html"
    image = str(model_dir / "samples" / "0.png")
    arguments = ["--image", image, *DRAWING, "--mode", "image", "--compare", str(model_dir), "--out", str(page)]
    assert main([str(exported), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "[image of 32 x 32]" in printed
    assert "equal to PyTorch" in printed
    assert page.read_text(encoding="utf-8").count("<img") == 2


def test_pytorch_runs_it_too(exported: Path, model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    arguments = [*DRAWING, "--backend", "torch", "--model", str(model_dir), "--device", "cpu", "--out", str(file)]
    assert main([str(exported), *arguments]) == 0
    with Image.open(file) as page:
        assert page.height > 32


def test_another_model_is_not_compared_with(
    exported: Path, model_dir: Path, model: MMInterleaved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        model.language_model.host.get_output_embeddings().weight.neg_()
    other = tmp_path / "other"
    model.save_pretrained(other)
    assert main([str(exported), *DRAWING, "--compare", str(other)]) == 2
    assert "is not the model that was exported: model.safetensors" in capsys.readouterr().err


def test_a_document_that_differs_fails(
    exported: Path, model: MMInterleaved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        model.language_model.host.get_output_embeddings().weight.neg_()
    other, root = tmp_path / "other", tmp_path / "exported"
    model.save_pretrained(other)
    shutil.copytree(exported, root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["model"] = {}  # as if the graphs had been made of it
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(root), "--prompt", "one", "--mode", "text", "--max-new-tokens", "4", "--compare", str(other)]) == 1
    assert "not equal: PyTorch writes" in capsys.readouterr().err


@pytest.mark.parametrize(("step_error", "status"), [(1e-6, 1), (0.5, 0)])
def test_an_image_may_move_as_far_as_pytorchs_own(
    exported: Path,
    model: MMInterleaved,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    step_error: float,
    status: int,
) -> None:
    with torch.no_grad():
        model.image_decoder.unet.host.conv_out.weight.mul_(1.5)
    other, root = tmp_path / "other", tmp_path / "exported"
    model.save_pretrained(other)
    shutil.copytree(exported, root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["model"] = {}  # as if the graphs had been made of it
    manifest["components"]["unet_mmfs"]["validation"]["max_relative_error"] = step_error
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(root), *DRAWING, "--mode", "image", "--compare", str(other)]) == status
    printed = capsys.readouterr()
    assert re.search(
        rf"PSNR of .* dB.*; PyTorch's own, with each step off by {step_error:.1e}",
        printed.err if status else printed.out,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "page.txt"], r"ends in \.html"),
        (["--out", "/proc/none/page.html", "--image", "nowhere.png"], "which cannot be written: No such file"),
        (["--temperature", "nan", "--image", "nowhere.png"], "temperature is nan; expected a finite number"),
        (["--guidance-scale", "inf"], "guidance_scale is inf"),
        (["--seed", str(2**64)], "seed is 18446744073709551616"),
        (["--prompt", "snail.png"], "the name or address of an image, given as text"),
        (["--image", "nowhere.png"], "no image 'nowhere.png'"),
        (["--backend", "torch"], "needs the model that was exported"),
        (["--mode", "image", "--num-images", "0"], "allow at least one image"),
        (["--num-inference-steps", "0"], "num_inference_steps is 0"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(
    exported: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(exported), "--prompt", "one", *arguments]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert re.search(message, printed)
