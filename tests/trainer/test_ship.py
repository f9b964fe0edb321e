import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import MMInterleaved, MMInterleavedConfig
from trainer import ship


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has ended: its model, and a log of two phases."""
    run = tmp_path / "run"
    MMInterleaved(MMInterleavedConfig.tiny()).save_pretrained(run / "model")
    records = [{"event": "start"}]
    records += [{"phase": "encoder", "step": s, "loss": 1.0, "accuracy_digits": 0.5, "step_s": 3.0} for s in (1, 2)]
    records += [
        {"phase": "main", "step": s, "loss": float(s), "loss_text": float(s), "loss_image": None, "step_s": 0.6}
        for s in range(1, 1001)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_a_shipped_model_is_half_as_large_and_loads(run: Path, tmp_path: Path) -> None:
    assert ship.main([str(run), "--out", str(tmp_path / "out"), "--command", "train it"]) == 0
    whole, half = (load_file(d / "model.safetensors") for d in (run / "model", tmp_path / "out"))
    assert {w.dtype for w in half.values() if w.is_floating_point()} == {torch.float16}
    loaded = MMInterleaved.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(loaded[name], weight, rtol=1e-3, atol=1e-6)


def test_the_log_is_thinned_to_means(run: Path, tmp_path: Path) -> None:
    ship.ship([run], tmp_path / "out", "train it")
    points = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    main = [p for p in points if p["phase"] == "main"]
    assert len(main) == 250  # every 4 of 1000 steps: at most 300 points
    assert main[0] == {"phase": "main", "step": 4, "loss": 2.5, "loss_text": 2.5}
    assert main[-1]["step"] == 1000
    assert next(p for p in points if p["phase"] == "encoder")["accuracy_digits"] == 0.5


def test_it_says_how_the_weights_were_made(run: Path, tmp_path: Path) -> None:
    ship.ship([run], tmp_path / "out", "train it")
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["command"] == "train it"
    assert facts["steps"] == {"encoder": 2, "main": 1000}
    assert facts["minutes"] == pytest.approx(10.1)
    assert facts["environment"]["torch"]


def test_the_steps_of_earlier_runs_count(run: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    records = [{"phase": "main", "step": s, "loss": 2.0, "step_s": 60.0} for s in (1, 2, 3)]
    (earlier / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    ship.ship([earlier, run], tmp_path / "out", "train it")
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["steps"] == {"encoder": 2, "main": 1003}
    assert facts["minutes"] == pytest.approx(13.1)
    points = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    main = [point["step"] for point in points if point["phase"] == "main"]
    assert main == sorted(set(main))
    assert main[-1] == 1003


def test_of_the_model_without_mmfs_scores_and_written_answers_travel(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(run), "--out", str(out), "--command", "train it", "--without-mmfs", str(run)]
    arguments += ["--without-mmfs-command", "train it bare"]
    assert ship.main(arguments) == 2
    assert f"python -m trainer.evaluate {run}/model --out {run}/scores.json" in capsys.readouterr().err
    read, drawn = (
        {"key": key, "answer": said, "scores": {}} for key, said in (("read/7", "top: 7"), ("draw/0", "image"))
    )
    tasks = {"read": {"scores": {"exact": 0.5}, "documents": [read]}, "draw": {"scores": {}, "documents": [drawn]}}
    scores = {"weights": {"has_mmfs": False}, "tasks": tasks}
    (run / "scores.json").write_text(json.dumps(scores))
    assert ship.main(arguments) == 0
    kept = json.loads((out / "without_mmfs.json").read_text())
    assert kept["tasks"] == {
        "read": {"scores": {"exact": 0.5}, "answers": {"read/7": "top: 7"}},
        "draw": {"scores": {}},
    }
    assert kept["training"]["command"] == "train it bare"
    assert kept["training"]["steps"] == {"encoder": 2, "main": 1000}
    (run / "scores.json").write_text(json.dumps(scores | {"weights": {"has_mmfs": True}}))
    assert ship.main(arguments) == 2
    assert "expected one that was trained without" in capsys.readouterr().err


def test_a_run_without_a_model_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ship.main([str(tmp_path), "--out", str(tmp_path / "out"), "--command", "x"]) == 2
    assert "ship a run that has ended or paused" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
