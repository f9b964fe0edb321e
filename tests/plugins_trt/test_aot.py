"""The ahead-of-time plugins, called by the Python code of TensorRT's own bindings, without TensorRT's library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import plugins_trt.aot
from mmfs.kernels.nvrtc import find_nvrtc
from plugins_trt.aot import AotPlugins, check_driver
from plugins_trt.driver import DriverError
from plugins_trt.entry import Entry
from plugins_trt.node_contract import INPUTS, Node
from plugins_trt.tensorrt_package import RTX_LIBRARY

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAT = (4, 7, 3, 2)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What call_aot.py prints."""
    rtx = find_spec("tensorrt_rtx_libs")
    if find_spec("tensorrt_bindings") is None or rtx is None:
        pytest.skip("needs tensorrt-cu13-bindings for its Python code, and tensorrt-rtx-cu13 for a plugin registry")
    if find_nvrtc() is None or shutil.which("g++") is None:
        pytest.skip("needs NVRTC (pip install nvidia-cuda-nvrtc) and g++")
    found = [Path(folder) / f"{RTX_LIBRARY}.1" for folder in rtx.submodule_search_locations or ()]
    library = next(path for path in found if path.exists())
    folder = tmp_path_factory.mktemp("libraries")
    source, define = HERE / "bindings_without_library.cpp", f'-DRTX_LIBRARY="{library}"'
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        out = folder / f"lib{name}.so.11"
        subprocess.run(["g++", "-shared", "-fPIC", define, str(source), "-o", str(out), "-ldl"], check=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=str(folder))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(HERE / "call_aot.py")]
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def entry(operator: str) -> Entry:
    """That of the node in call_aot.py."""
    rows, sampled = (2, 5), (2, 2, 3)
    float32, int64 = torch.float32, torch.int64
    if operator == "MSDeformAttn":
        shapes: list[tuple[int, ...]] = [(2, 34, 2, 64), (*rows, *sampled, 2), (*rows, *sampled)]
        return Entry.of(Node(operator, FLAT), shapes, [torch.bfloat16, float32, float32])
    shapes = [(6, 34, 2, 64), (*rows, 2), (*rows, 2, 3, 2), (*rows, *sampled), (*rows, 2)]
    shapes += [(4, 2, 3, 2), (4, *sampled), (2, 64)]
    if operator == "MMFSImageLists":
        shapes[1], shapes[2], shapes[4] = (*rows, 4, 1, 3, 2), (*rows, *sampled, 2), (*rows, 4)
        shapes[5] = (4, *sampled, 2)
    types = [torch.float16, float32, float32, float32, int64, float32, float32, torch.float16]
    return Entry.of(Node(operator, FLAT, 0.3), shapes, types)


@pytest.mark.parametrize("operator", INPUTS)
def test_tensorrt_learns_shape_types_kernel_and_launch(answer: dict[str, Any], operator: str) -> None:
    built, expected = answer[operator], entry(operator)
    assert built["name"] == expected.name
    assert f".entry {expected.name}(" in built["ptx"]
    assert not built["ptx"].endswith("\0")
    if operator == "MSDeformAttn":
        types = ["BF16", "FLOAT", "FLOAT", "BF16"]
    else:
        types = ["HALF", *["FLOAT"] * 3, "INT64", "FLOAT", "FLOAT", "HALF", "HALF"]
    assert built["types"] == [[dtype, "LINEAR"] for dtype in types]
    blocks = [1, 1, 1, -(-4 * 99 // expected.rows_per_block)]
    sizes = [[2, 5, 6], [1, 1, 1], [0, 9, 0], [4, 99, 9]]
    assert blocks[-1] > 1
    for call, x, (batch, num_queries, num_images) in zip(built["calls"], blocks, sizes, strict=True):
        assert call["out"] == [batch, num_queries, 128]
        assert call["launch"] == [x, expected.grid_y, 1, expected.threads, 1, 1, expected.shared_bytes]
        assert call["scalars"] == [batch, num_queries, batch if operator == "MSDeformAttn" else num_images]
    assert answer["kernels"][operator] == [expected.name]


def test_what_cannot_be_is_refused_with_a_sentence(answer: dict[str, Any]) -> None:
    twice, dtype, varies, large, pixels, lacks, slots = answer["refused"]
    assert twice.startswith("RuntimeError: TensorRT 11.")
    assert "has a plugin mmfs::MMFS, version 1, already. Expected to be the only one" in twice
    assert dtype == "TypeError: value of MSDeformAttn is DataType.INT32. The kernels do not take it."
    assert "value of MSDeformAttn has the shape [-1, 34, -1, 64], where -1 varies. Only batch" in varies
    assert "takes up to 70000 x 70000 queries and 70000 images. Expected at most 2147483647" in large
    assert "value of MSDeformAttn has the shape [2, 34, 2, 64]. Expected [2, 37, 2, 64]." in pixels
    assert "image_indices of MMFSImageLists has the shape [-1, -1, -1], where -1 varies. Only batch" in slots
    assert lacks == "ValueError: The node MMFS lacks null_logit, use_null. It has spatial_shapes."


def test_a_tensorrt_without_such_plugins_is_refused() -> None:
    trt: Any = SimpleNamespace(__name__="json", __version__="1.7")
    with pytest.raises(RuntimeError, match=r"json 1\.7 has no ahead-of-time plugins .* use the plugins in Python"):
        AotPlugins(trt)


@pytest.mark.parametrize(("newest", "refused"), [((12, 9), True), ((13, 0), True), ((13, 2), False), ((14, 0), False)])
def test_ptx_that_is_newer_than_the_driver_is_refused(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], refused: bool
) -> None:
    monkeypatch.setattr(plugins_trt.aot, "nvrtc", lambda: SimpleNamespace(version=(13, 2)))
    monkeypatch.setattr(plugins_trt.aot, "driver", lambda: SimpleNamespace(cuda_version=lambda: newest))
    if not refused:
        check_driver()
        return
    version = ".".join(map(str, newest))
    sentence = rf"NVRTC 13\.2 writes PTX .* for CUDA {version}, .*nvidia-cuda-nvrtc=={version}"
    with pytest.raises(RuntimeError, match=sentence):
        check_driver()


def test_without_a_driver_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise DriverError("The CUDA driver libcuda.so.1 cannot be loaded.")

    monkeypatch.setattr(plugins_trt.aot, "driver", missing)
    monkeypatch.setattr(plugins_trt.aot, "nvrtc", lambda: SimpleNamespace(version=(99, 0)))
    check_driver()
