"""What is deployed is judged by the command that judges models: an export gives the predictions of its model."""

import json
from pathlib import Path

import pytest

from trainer.benchmarks.small_folders import write_all
from trainer.evaluate import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_all(folder, 3)
    return folder


@pytest.mark.parametrize(("name", "options"), [("okvqa", ["--num-beams", "1"]), ("emoji_draw", ["--num-steps", "2"])])
def test_an_export_answers_as_its_model(
    name: str, options: list[str], data: Path, exported: Path, model_dir: Path, tmp_path: Path
) -> None:
    found = {}
    for kind, directory in (("model", model_dir), ("export", exported)):
        out = tmp_path / kind
        arguments = ["--benchmark", name, "--data", str(data), "--out", str(out), "--device", "cpu", "--limit", "3"]
        assert main([str(directory), *arguments, *options]) == 0
        result = json.loads((out / name / "result.json").read_text())
        lines = (out / name / "predictions-0.jsonl").read_text().splitlines()
        found[kind] = ({(one := json.loads(line))["id"]: one["prediction"] for line in lines}, result["value"])
        form = result["settings"]["model"]["form"]
        assert form == ("model" if kind == "model" else "export, run by ort")
    assert found["model"] == found["export"]


def test_other_ways_to_run_it_are_refused(
    data: Path, exported: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--benchmark", "gqa", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([str(exported), *arguments, "--backend", "torch"]) == 2
    assert "--backend is 'torch'; expected ort, trt, rtx" in capsys.readouterr().err
    assert main([str(model_dir), *arguments, "--backend", "ort"]) == 2
    assert "is no export: it has no manifest.json" in capsys.readouterr().err
    assert main([str(tmp_path), *arguments]) == 2
    assert not (tmp_path / "out").exists()
