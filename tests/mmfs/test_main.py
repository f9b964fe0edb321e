"""python -m mmfs: what it says when all is well, and that it fails when the op is wrong."""

from __future__ import annotations

import pytest
import torch

import mmfs
from mmfs import __main__ as report
from mmfs import compiled, embedding_bag


def test_report_names_versions_devices_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main() == 0
    text = capsys.readouterr().out
    assert f"mmfs {mmfs.__version__}, torch {torch.__version__}" in text
    assert "CUDA kernels: no, value is on cpu" in text
    compiled_kernel = mmfs.why_not_compiled(torch.empty(0))
    assert f"compiled CPU kernel: {'yes' if compiled_kernel is None else 'no, ' + compiled_kernel}" in text
    assert text.count("ok    ") >= 12
    assert "WRONG" not in text
    assert text.endswith("All checks passed.\n")


def test_a_portable_kernel_is_told_from_the_fast_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "why_not_compiled", lambda value: None)
    monkeypatch.setattr(compiled, "why_not_avx2", lambda: "this processor has no AVX2")
    report.main()
    text = capsys.readouterr().out
    assert "compiled CPU kernel: yes\n    portable instructions, because this processor has no AVX2\n" in text


@pytest.mark.parametrize("broken", ["find_corners", "table_gradient"])
def test_a_wrong_op_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    monkeypatch.setattr(compiled, "why_not", lambda value: "it is the other path's turn")
    if broken == "find_corners":
        find = embedding_bag.find_corners
        monkeypatch.setattr(embedding_bag, broken, lambda locations, *rest: find(locations + 0.01, *rest))
    else:
        monkeypatch.setattr(embedding_bag, broken, lambda entries, grad, value: torch.zeros_like(value))
    assert report.main() == 1
    text = capsys.readouterr().out
    assert "WRONG" in text
    assert "Something is wrong" in text
