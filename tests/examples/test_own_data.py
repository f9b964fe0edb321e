"""examples/own_data.py: a folder of images and captions becomes a model that captions and draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from examples import own_data


def test_a_folder_without_captions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        own_data.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "has no captions.jsonl; expected a line" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_becomes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = own_data.main(["--out", str(tmp_path), "--steps", "2"])
    truths = [json.loads(line)["caption"] for line in (tmp_path / "shapes" / "captions.jsonl").read_text().splitlines()]
    assert len(truths) == 36
    assert [truth for truth, _ in answers.captions] == truths[::7]
    with Image.open(answers.drawings) as sheet:
        assert sheet.size == (6 * 32, 32)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum("loss" in record for record in log) == 2
    assert "an image of 'a red circle': the model writes" in capsys.readouterr().out
