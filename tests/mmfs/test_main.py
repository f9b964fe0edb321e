"""python -m mmfs: what it says when all is well, and that it fails when the op is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mmfs
from mmfs import __main__ as report
from mmfs import compiled, embedding_bag


def test_report_names_versions_devices_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([]) == 0
    text = capsys.readouterr().out
    assert f"mmfs {mmfs.__version__}, torch {torch.__version__}" in text
    assert "value is on cpu" not in text
    if torch.cuda.device_count() == 0:
        assert "PyTorch sees no CUDA device" in text
    compiled_kernel = mmfs.why_not_compiled(torch.empty(0))
    assert f"compiled CPU kernel: {'yes' if compiled_kernel is None else 'no, ' + compiled_kernel}" in text
    assert text.count("ok    ") >= 12
    assert "WRONG" not in text
    assert text.endswith("All checks passed.\n")


def test_a_portable_kernel_is_told_from_the_fast_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "why_not_compiled", lambda value: None)
    monkeypatch.setattr(compiled, "why_slower", lambda: "this processor has no AVX2")
    monkeypatch.setattr(compiled, "best_instruction_set", lambda: "portable")
    report.main([])
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
    assert report.main([]) == 1
    text = capsys.readouterr().out
    assert "WRONG" in text
    assert "Something is wrong" in text


def test_help_and_nonsense_check_nothing() -> None:
    helped, refused = (
        subprocess.run([sys.executable, "-m", "mmfs", argument], capture_output=True, text=True, check=False)
        for argument in ("--help", "nonsense")
    )
    assert (helped.returncode, refused.returncode) == (0, 2)
    assert "usage: python -m mmfs" in helped.stdout
    assert "checks outputs and gradients of both ops" in " ".join(helped.stdout.split())
    assert "unrecognized arguments: nonsense" in refused.stderr
    assert "ok    " not in helped.stdout + refused.stdout


def test_what_cuda_kernels_need_is_named_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy is one of several packages; a folder that looks like an installed one stands for it. It is not imported."""
    installed = tmp_path / "cupy_cuda13x-14.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: cupy-cuda13x\nVersion: 14.1.0\n")
    (installed / "top_level.txt").write_text("cupy\n")
    monkeypatch.setattr(report, "find_nvrtc", lambda: None)
    before = report.cuda_packages()
    monkeypatch.syspath_prepend(tmp_path)
    assert report.cuda_packages() == [*before, "cupy-cuda13x 14.1.0"]
    broken = tmp_path / "libnvrtc.so.13"
    broken.write_text("not a library")
    monkeypatch.setattr(report, "find_nvrtc", lambda: broken)
    assert report.cuda_packages()[-1].startswith(f"an NVRTC that does not work ({broken}: ")
    monkeypatch.setattr(report, "Nvrtc", lambda library: SimpleNamespace(version=(13, 5)))
    assert report.cuda_packages()[-1] == "NVRTC 13.5"
