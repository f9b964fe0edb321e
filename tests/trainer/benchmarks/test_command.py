"""The command, as a user gives it, on small folders in the official forms with the shipped model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.benchmarks import arguments
from trainer.errors import RendezvousError
from trainer.evaluate import main
from trainer.process.watchdog import EXIT_STUCK

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import sys
from trainer.evaluate import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules and "transformers" not in sys.modules, "PyTorch was imported"
sys.exit(status)
"""


def predictions(folder: Path) -> dict[str, object]:
    lines = [line for file in folder.glob("predictions-*.jsonl") for line in file.read_text().splitlines()]
    entries = [json.loads(line) for line in lines]
    assert len({entry["id"] for entry in entries}) == len(entries), "an id stands twice"
    return {entry["id"]: entry["prediction"] for entry in entries}


def test_check_tells_what_is_there(data, tmp_path, capsys) -> None:
    assert main(["--benchmark", "all", "--data", str(data), "--check"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall("^ready ", shown, re.MULTILINE)) == 19 + 7 + 6
    assert "the official split has 5,046: this is another one, or a part" in shown
    assert "4 images x 1 candidates x 250 steps x 2 (guidance) = 2,000 passes of the U-Net" in shown
    assert main(["--benchmark", "gqa", "vist", "--data", str(tmp_path), "--check"]) == 1
    shown = capsys.readouterr().out
    assert len(re.findall("^missing ", shown, re.MULTILINE)) == 2
    assert "gqa/testdev_balanced_questions.json" in shown


def test_missing_images_are_told_before_the_model_is_read(data, tmp_path, capsys) -> None:
    shutil.copytree(data / "gqa", tmp_path / "gqa")
    (tmp_path / "gqa/images/n2.jpg").unlink()
    arguments = ["nowhere", "--benchmark", "gqa", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert re.search(r"gqa \(testdev\): 1 of 4 images are missing: .*n2\.jpg", capsys.readouterr().err)
    assert main(["--benchmark", "gqa", "--data", str(tmp_path), "--check"]) == 1


def test_answers_scores_and_pages(data, shipped_dir, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    names = ["coco_caption", "okvqa", "visdial", "refcoco", "vizwiz"]
    arguments = [str(shipped_dir), "--benchmark", *names, "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "coco_caption: this split has 3 samples, the official one 5,000" in shown
    assert "vizwiz (test) is scored by its makers' server alone" in shown
    assert len(json.loads((out / "vizwiz/submission.json").read_text())) == 4
    table = (out / "results.md").read_text()
    assert table.count("≈") == 1 + 4
    for name in names[:-1]:
        result = json.loads((out / name / "result.json").read_text())
        assert result["n"] == len(predictions(out / name))
        assert result["settings"]["model"]["form"] == "model"
        page = (out / name / "page.html").read_text()
        assert "data:image/jpeg;base64" in page
        assert result["title"] in page
    before = predictions(out / "okvqa")
    assert main(arguments) == 0, "nothing is left to answer"
    assert predictions(out / "okvqa") == before
    capsys.readouterr()
    assert main(["--compare", str(out), str(out)]) == 0
    assert "which may be chance" in capsys.readouterr().out

    given = tmp_path / "given.json"
    given.write_text(json.dumps([{"question_id": int(key), "answer": said} for key, said in before.items()]))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "--benchmark", "okvqa", "--data", str(data), "--predictions", str(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    value = json.loads((out / "okvqa/result.json").read_text())["value"]
    assert f"{value:.4f}" in run.stdout or f"{value:.2f}" in run.stdout
    assert "okvqa: predictions of another program" in run.stdout

    assert main([*arguments, "--num-beams", "1"]) == 2
    assert "was begun with options.num_beams 5, and now it is 1" in capsys.readouterr().err
    del arguments[2:7]
    arguments[2:2] = ["okvqa"]
    assert main([*arguments, "--num-beams", "1", "--overwrite", "--limit", "3"]) == 0
    shown = capsys.readouterr().out
    assert "okvqa: 3 of 8 samples" in shown
    assert "okvqa: num_beams 1, not 3" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "gqa"], "--data is missing"),
        (["--check"], "--benchmark is missing"),
        (["--benchmark", "coco", "--data", "."], "There is no benchmark 'coco'|MODEL is missing"),
        (["--benchmark", "gqa", "--data", ".", "--limit", "0"], "--limit is 0; expected 1 or more"),
        (["m", "--benchmark", "gqa", "--data", "."], "--out DIR is missing"),
        (["m", "--benchmark", "gqa", "okvqa", "--data", ".", "--out", "o", "--split", "val"], "--split is val"),
        (["--benchmark", "gqa", "okvqa", "--data", ".", "--predictions", "p"], "--predictions is one file"),
        ([], "MODEL is missing"),
    ],
)
def test_wrong_use(arguments, message, capsys) -> None:
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert re.search(message, capsys.readouterr().err)


def test_incomplete_predictions_are_no_score(data, tmp_path, capsys) -> None:
    given = tmp_path / "given.json"
    given.write_text('[{"question_id": 10, "answer": "blue"}]')
    arguments = ["--benchmark", "okvqa", "--data", str(data), "--predictions", str(given)]
    assert main(arguments) == 2
    assert "okvqa: 7 of 8 samples have no prediction, the first 11" in capsys.readouterr().err
    assert main([*arguments, "--limit", "1"]) == 0
    assert "1 of 8 samples" in capsys.readouterr().out


def launched(num: int, arguments: list[str]) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"]
    return (
        [*start, "-m", "trainer.evaluate", *arguments]
        if num > 1
        else [sys.executable, "-m", "trainer.evaluate", *arguments]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["okvqa", "pororo"])
def test_a_killed_run_goes_on_with_another_number_of_processes(name, data, shipped_dir, tmp_path) -> None:
    from tiny_judges import write_inception

    common = [str(shipped_dir), "--benchmark", name, "--data", str(data), "--device", "cpu", "--batch-size", "1"]
    if name == "pororo":
        common += ["--num-steps", "3", "--inception", str(write_inception(tmp_path / "inception.safetensors"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(num: int, out: str) -> None:
        done = subprocess.run(
            launched(num, [*common, "--out", str(tmp_path / out)]),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    run(1, "whole")
    killed = subprocess.Popen(
        launched(1, [*common, "--out", str(tmp_path / "parts")]),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "parts" / name / "predictions-0.jsonl"
    while not (first.exists() and first.stat().st_size):
        assert killed.poll() is None, "it ended before it was killed"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    begun = len(predictions(tmp_path / "parts" / name))
    run(2, "parts")
    whole, parts = (predictions(tmp_path / out / name) for out in ("whole", "parts"))
    assert 0 < begun < len(whole)
    assert len(list((tmp_path / "parts" / name).glob("predictions-*.jsonl"))) == 2
    assert parts == whole
    values = [json.loads((tmp_path / out / name / "result.json").read_text())["value"] for out in ("whole", "parts")]
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-9)
    if name == "pororo":
        for image in (tmp_path / "whole/pororo/images").glob("*.png"):
            assert image.read_bytes() == (tmp_path / "parts/pororo/images" / image.name).read_bytes()


def test_drawn_images_of_any_program_score_as_those_of_a_run(data, shipped_dir, tmp_path, capsys) -> None:
    from tiny_judges import write_inception

    common = ["--benchmark", "pororo", "--data", str(data), "--device", "cpu"]
    common += ["--inception", str(write_inception(tmp_path / "inception.safetensors"))]
    run, given = tmp_path / "run", tmp_path / "given"
    assert main([str(shipped_dir), *common, "--out", str(run), "--num-steps", "2"]) == 0
    assert main([*common, "--predictions", str(run / "pororo/images"), "--out", str(given)]) == 0
    assert "pororo: predictions of another program" in capsys.readouterr().out
    values = [json.loads((out / "pororo/result.json").read_text())["value"] for out in (run, given)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert main([*common, "--predictions", str(run / "pororo/images")]) == 2
    assert "--out DIR is missing" in capsys.readouterr().err


def test_processes_that_do_not_come_are_told_of_in_a_sentence(data, tmp_path, monkeypatch, capsys) -> None:
    def run_all(*_: object) -> int:
        raise RendezvousError("process 1 of 2 did not come within 240 s, so the run cannot begin.")

    monkeypatch.setattr(arguments, "run_all", run_all)
    given = ["nowhere", "--benchmark", "gqa", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(given) == EXIT_STUCK
    assert capsys.readouterr().err == "process 0: process 1 of 2 did not come within 240 s, so the run cannot begin.\n"
