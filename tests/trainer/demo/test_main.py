import json
from pathlib import Path

import pytest

from trainer.demo.__main__ import main


def test_weights_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "--from none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_whole_demo_runs_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--from", "none", "--out", str(tmp_path / "demo")]) == 0
    page = (tmp_path / "demo" / "index.html").read_text()
    manifest = json.loads((tmp_path / "demo" / "export" / "manifest.json").read_text())
    assert all(name in page for name in manifest["components"])
    assert "from random weights" in page
    said = capsys.readouterr().out
    assert "wrote" in said
    assert said.splitlines()[-1].endswith(f"python -m export.serve {tmp_path / 'demo' / 'model'}")
