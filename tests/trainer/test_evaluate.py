import json
from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from trainer.evaluate import main
from trainer.evaluation.examination import evaluate
from trainer.evaluation.settings import Settings


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
        "--num_steps",
        "1",
        "--seed",
        "5",
        "--num_workers",
        "1",
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
    assert {"mean", "standard_error", "chance", "ceiling", "num_documents"} == set(
        written["tasks"]["read"]["scores"]["number"]
    )


def test_wrong_use_is_explained(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    assert main([str(untrained), "--tasks", "sing"]) == 2
    assert "expected some of caption" in capsys.readouterr().err
