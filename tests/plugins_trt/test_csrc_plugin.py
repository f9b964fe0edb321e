"""The C++ plugin as people get it: built by CMake, loaded by TensorRT-RTX, on a machine without a GPU.

Compiled against `headers/`, which stand in for NVIDIA's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mmfs.kernels.nvrtc import find_nvrtc
from plugins_trt.plugin_kinds import architectures_in
from plugins_trt.tensorrt_package import library_folders, why_not

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, for float16 values on two architectures."""
    if missing := [tool for tool in ("cmake", "g++", "make") if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: the C++ plugin is built with it")
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    folder = tmp_path_factory.mktemp("plugin")
    options = {
        "TENSORRT_INCLUDE": HERE / "headers",
        "PYTHON": sys.executable,
        "CHANNELS": "8;32",
        "TYPES": "float16",
        "ARCHITECTURES": "sm_80;sm_90",
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_CXX_FLAGS": "-Werror",
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    for command in (["-S", ROOT / "plugins_trt/csrc", "-B", folder, *definitions], ["--build", folder]):
        done = subprocess.run(["cmake", *map(str, command)], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "libmmfs_plugin.so"


def graph(value_type: int) -> bytes:
    """Both nodes on one value, with a dynamic batch."""
    shared = {"domain": "mmfs", "spatial_shapes": [4, 7, 3, 2], "plugin_namespace": "mmfs", "plugin_version": "1"}
    inputs = ["value", "points", "offsets", "weights", "visible", "offset_table", "logit_table", "null_value"]
    nodes = [
        helper.make_node("MSDeformAttn", ["value", "locations", "weights"], ["ms_deform_attn"], **shared),
        helper.make_node("MMFS", inputs, ["mmfs_attention"], null_logit=-0.75, use_null=1, **shared),
    ]
    inputs = {
        "value": (value_type, ["B", 34, 2, 8]),
        "locations": (FLOAT, ["B", 5, 2, 2, 4, 2]),
        "weights": (FLOAT, ["B", 5, 2, 2, 4]),
        "points": (FLOAT, ["B", 5, 2]),
        "offsets": (FLOAT, ["B", 5, 2, 4, 2]),
        "visible": (INT64, ["B", 5, 2]),
        "offset_table": (FLOAT, [1, 2, 4, 2]),
        "logit_table": (FLOAT, [1, 2, 2, 4]),
        "null_value": (value_type, [2, 8]),
    }
    outputs = {name: (value_type, ["B", 5, 16]) for name in ("ms_deform_attn", "mmfs_attention")}
    described = [
        [helper.make_tensor_value_info(name, *what) for name, what in side.items()] for side in (inputs, outputs)
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mmfs", 1)]
    model: onnx.ModelProto = helper.make_model(
        helper.make_graph(nodes, "g", *described), opset_imports=opsets, ir_version=10
    )
    return model.SerializeToString()


def child(*command: object) -> subprocess.CompletedProcess[str]:
    """A process with TensorRT-RTX, because a loaded library stays, and the plugins in Python have the same names."""
    with library_folders("rtx") as libraries:
        environment = dict(os.environ)
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        paths = [*map(str, libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
        return subprocess.run(
            [sys.executable, *map(str, command)], text=True, capture_output=True, check=False, env=environment
        )


@pytest.mark.slow
def test_a_plan_is_the_one_that_python_builds(plugin: Path, tmp_path: Path) -> None:
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    (tmp_path / "graph.onnx").write_bytes(graph(HALF))
    plans = []
    for library in (plugin, ""):
        done = child(HERE / "build_plan.py", tmp_path / "graph.onnx", tmp_path / "plan", library)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["PLUGIN_V3", "PLUGIN_V3"]
        plans.append((tmp_path / "plan").read_bytes())
    for kernel in ("mmfs_attention_forward", "merge_splits", "ms_deform_attn_forward", "add_splits"):
        assert f"mmfs_{kernel}_float16_8_8_1@sm_80".encode() in plans[0]
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_the_library_goes_into_the_plans_that_are_built_with_it(plugin: Path, tmp_path: Path) -> None:
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    assert architectures_in(plugin) == ["sm_80", "sm_90"]
    (tmp_path / "graph.onnx").write_bytes(graph(HALF))
    done = child(HERE / "build_plan.py", tmp_path / "graph.onnx", tmp_path / "plan", plugin, "inside")
    assert done.returncode == 0, done.stderr
    assert plugin.read_bytes() in (tmp_path / "plan").read_bytes()


@pytest.mark.slow
def test_a_type_without_kernels_is_refused_when_the_engine_is_built(plugin: Path, tmp_path: Path) -> None:
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    (tmp_path / "graph.onnx").write_bytes(graph(FLOAT))
    done = child(HERE / "build_plan.py", tmp_path / "graph.onnx", tmp_path / "plan", plugin)
    assert done.returncode == 3
    # By TensorRT's own logger, which the library was told where to find.
    assert (
        "[E] The plugin library holds no machine code of mmfs_mmfs_attention_forward_float32_4_8_1. Build it"
        in done.stdout
    )
    assert not (tmp_path / "plan").exists()


@pytest.mark.slow
def test_a_plan_of_either_plugin_kind_is_read(plugin: Path) -> None:
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    done = child(HERE / "read_fields.py", plugin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["made", "refused", "refused", "made", *["refused"] * 13]
    assert "The kernel k for sm_90 is damaged. Build the engine again." in done.stderr
    for sentence in (
        "spatial_shapes is [4, 7, 3]. Expected heights and widths in turn, all positive.",
        "spatial_shapes of MMFS holds 7.500000. Expected whole numbers of 32 bits.",
        "spatial_shapes of MMFS holds nan. Expected whole numbers of 32 bits.",
        "spatial_shapes of MMFS holds 4294967296.000000. Expected whole numbers of 32 bits.",
        "spatial_shapes is [2147483647, 2]. The CUDA kernels take at most 2147483647 pixels an image.",
        "null_logit is nan. Expected a finite float32, or use_null=0 for none.",
        "null_logit is 1e+300. Expected a finite float32, or use_null=0 for none.",
        "null_logit of MMFS holds 2 numbers. Expected one.",
    ):
        assert sentence in done.stderr


@pytest.mark.slow
def test_the_library_needs_nothing_of_tensorrt_or_cuda(plugin: Path) -> None:
    listed = subprocess.run(["ldd", str(plugin)], text=True, capture_output=True, check=True).stdout
    names = {line.split()[0].partition(".so")[0] for line in listed.splitlines() if ".so" in line}
    assert names & {"libz", "libstdc++"} == {"libz", "libstdc++"}
    assert not any("nv" in name or "cuda" in name for name in names)
