"""python -m mmfs: what it says when all is well, and that it fails when the op is wrong."""

from __future__ import annotations

import pytest
import torch

import mmfs
from mmfs import __main__ as report
from mmfs import embedding_bag


def test_report_names_versions_devices_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main() == 0
    text = capsys.readouterr().out
    assert f"mmfs {mmfs.__version__}, torch {torch.__version__}" in text
    assert "backend 'cuda': value is on cpu" in text
    assert text.count("ok    ") >= 12
    assert "WRONG" not in text
    assert text.endswith("All checks passed.\n")


@pytest.mark.parametrize("broken", ["find_corners", "table_gradient"])
def test_a_wrong_op_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    if broken == "find_corners":
        find = embedding_bag.find_corners
        monkeypatch.setattr(embedding_bag, broken, lambda locations, *rest: find(locations + 0.01, *rest))
    else:
        monkeypatch.setattr(embedding_bag, broken, lambda entries, grad, value: torch.zeros_like(value))
    assert report.main() == 1
    text = capsys.readouterr().out
    assert "WRONG" in text
    assert "Something is wrong" in text
