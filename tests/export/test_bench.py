import json
from pathlib import Path

import pytest
import torch

from export.bench import main
from export.measure import Measured, table

SMALL = ["--prompt-tokens", "9", "--new-tokens", "3", "--num-inference-steps", "2", "--rounds", "2"]


def test_both_do_the_same_and_are_timed(
    exported: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert main([str(exported), "--model", str(model_dir), *SMALL, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    works = ["tokens read", "tokens written", "images drawn"]
    assert [(one["what"], one["implementation"]) for one in figures] == [
        (what, implementation) for what in works for implementation in ("PyTorch", "ort")
    ]
    assert all(one["per_s"] > 0 for one in figures)
    assert all(one["relative_error"] == 0 for one in figures[::2])
    assert all(0 < one["relative_error"] < 1e-3 for one in figures[1::2])
    printed = capsys.readouterr().out
    assert printed.count("| PyTorch |") == 3
    assert "\nort: mmfs nodes by " in printed
    assert "[3/3] images drawn by PyTorch and ort ..." in printed


def test_times_are_against_pytorch() -> None:
    rows = table(
        [Measured("w", "PyTorch", 2.0, 0.0), Measured("w", "rtx", 5.0, 1e-3)], torch.device("cpu")
    ).splitlines()
    assert rows[-1] == "| w | rtx | 5 | 2.50 | 1.0e-03 |"


def test_nothing_to_measure_is_a_sentence(exported: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported), "--model", str(model_dir), "--rounds", "0"]) == 2
    assert capsys.readouterr().err == "rounds is 0. Expected at least 1.\n"


def test_too_long_a_prompt_is_a_sentence(exported: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported), "--model", str(model_dir), "--prompt-tokens", "600"]) == 2
    assert "the language model reads 512" in capsys.readouterr().err
