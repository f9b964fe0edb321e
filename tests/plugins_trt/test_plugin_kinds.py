from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins_trt.kinds import PLUGIN_KINDS, USUAL_PLUGIN_KIND
from plugins_trt.plugin import Plugins
from plugins_trt.plugin_kinds import architectures_of, check_plugin_kind, open_plugin_kind
from plugins_trt.tensorrt_package import PACKAGES

KERNELS = (
    b"\x7fELF\0mmfs_mmfs_attention_forward_float16_8_8_1@sm_90\0mmfs_mmfs_attention_forward_float16_8_8_1@compute_80\0"
)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / "libmmfs_plugin.so"
    file.write_bytes(KERNELS)
    return file


def tensorrt(*, takes_library: bool = True) -> Any:
    loaded: list[str] = []

    def load_library(file: str) -> object | None:
        loaded.append(file)
        return object() if takes_library else None

    registry = SimpleNamespace(load_library=load_library, register_creator=lambda creator, namespace: True)
    return SimpleNamespace(
        __name__="tensorrt",
        __version__="11.4",
        loaded=loaded,
        get_plugin_registry=lambda: registry,
        IPluginCreatorV3One=object,
        PluginField=lambda name: name,
        PluginFieldCollection=list,
    )


def test_every_builder_takes_its_usual_plugin_kind() -> None:
    assert USUAL_PLUGIN_KIND.keys() == PACKAGES.keys()
    for builder, kind in USUAL_PLUGIN_KIND.items():
        check_plugin_kind(kind, builder, None)


@pytest.mark.parametrize(
    ("kind", "builder", "sentence"),
    [
        ("aot", "rtx", r"TensorRT-RTX has no ahead-of-time plugins\. Take --plugin python, or --builder tensorrt"),
        ("library", "rtx", "--plugin library and --plugin-library FILE belong together"),
    ],
)
def test_what_does_not_go_together_is_refused(kind: str, builder: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_plugin_kind(kind, builder, None)


def test_a_library_without_its_plugin_kind_and_a_file_that_is_none_are_refused(library: Path) -> None:
    check_plugin_kind("library", "tensorrt", library)
    with pytest.raises(ValueError, match="belong together: name both, or neither"):
        check_plugin_kind("python", "rtx", library)
    library.write_bytes(b"\x7fELF of something else")
    with pytest.raises(ValueError, match=r"libmmfs_plugin\.so holds no kernels of mmfs"):
        check_plugin_kind("library", "tensorrt", library)


def test_a_library_is_loaded_and_goes_into_the_plan(library: Path) -> None:
    trt, config = tensorrt(), SimpleNamespace()
    kind = open_plugin_kind("library", trt, (), library)
    kind.configure(config)
    assert trt.loaded == config.plugins_to_serialize == [str(library)]
    assert kind.num_in_plan() is None
    (digest,) = kind.sha256()
    library.write_bytes(KERNELS + b"more")
    assert kind.sha256() != [digest]
    with pytest.raises(RuntimeError, match=r"TensorRT 11\.4 does not load .*libmmfs_plugin\.so\. Expected a library"):
        open_plugin_kind("library", tensorrt(takes_library=False), (), library)


def test_the_plugins_in_python_count_what_they_wrote() -> None:
    kind = open_plugin_kind("python", tensorrt(), ("sm_90",))
    assert isinstance(kind, Plugins)
    assert kind.architectures == ("sm_90",)
    assert (kind.num_in_plan(), kind.sha256(), kind.network_flags) == ({}, [], 0)


def test_the_architectures_of_a_plan_are_those_of_its_plugin_kind(library: Path) -> None:
    asked = ("sm_86", "sm_89")
    found = {name: architectures_of(name, asked, library if name == "library" else None) for name in PLUGIN_KINDS}
    assert found == {"aot": ["compute_80"], "python": ["sm_86", "sm_89"], "library": ["compute_80", "sm_90"]}
