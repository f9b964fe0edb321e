from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins_trt import tensorrt_package
from plugins_trt.tensorrt_package import MissingPackage, library_folders, open_package, why_not


@pytest.mark.parametrize(
    ("builder", "module", "extra"), [("tensorrt", "tensorrt", "trt"), ("rtx", "tensorrt_rtx", "rtx")]
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, builder: str, module: str, extra: str
) -> None:
    monkeypatch.setattr(tensorrt_package, "find_spec", lambda name: None)
    sentence = f"{module} is not installed. Install it with: pip install 'mmfs[{extra}]'"
    assert why_not(builder) == sentence
    with pytest.raises(MissingPackage) as error:
        open_package(builder)
    assert str(error.value) == sentence


def test_a_package_without_its_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(
        MissingPackage, match=r"tensorrt_rtx is installed but cannot be loaded \(libtensorrt_rtx\.so\.1"
    ):
        open_package("rtx")


@pytest.mark.parametrize(
    ("files", "links"),
    [
        (["libtensorrt_rtx.so.1"], 1),
        (["libtensorrt_rtx.so.1", "libtensorrt_rtx.so"], 0),
        (["libother.so.1"], 0),
    ],
    ids=["as-shipped", "with-link", "something-else"],
)
def test_the_library_is_linked_where_the_wheel_lacks_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], links: int
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"library")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(tensorrt_package, "find_spec", lambda name: spec)
    with library_folders("rtx") as folders:
        assert [(folder / "libtensorrt_rtx.so").read_bytes() for folder in folders] == [b"library"] * links
    assert not any(folder.exists() for folder in folders)
    with library_folders("tensorrt") as folders:
        assert folders == []
