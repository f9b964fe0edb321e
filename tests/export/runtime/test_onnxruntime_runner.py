"""Who computes the mmfs nodes of a component in onnxruntime: their bodies or the compiled kernel; the result is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mmfs.onnxruntime
from export.components.check_inputs import Case
from export.components.component import Component, Tolerances
from export.runtime import Session
from export.runtime.onnxruntime_runner import OnnxRuntimeRunner, who_computes, why_no_custom_operators
from export.validate.parity import relative_error
from mmfs.kernels import nvrtc

CPU = torch.device("cpu")


def runner_of(component: Component, exported: Path, *, custom_operators: bool) -> OnnxRuntimeRunner:
    file = exported / "onnx" / f"{component.name}.onnx"
    return OnnxRuntimeRunner(
        component.name, component.inputs, component.outputs, file, CPU, custom_operators=custom_operators
    )


@pytest.mark.parametrize("name", ["llm", "unet_mmfs"])
def test_bodies_and_kernel_give_the_same(
    exported: Path, components: dict[str, Component], cases: dict[str, list[Case]], name: str
) -> None:
    by_body, by_kernel = (runner_of(components[name], exported, custom_operators=asked) for asked in (False, True))
    assert who_computes([by_body]) == "mmfs nodes by their bodies: custom operators were not asked for"
    if (reason := mmfs.onnxruntime.why_not()) is not None:
        pytest.skip(reason)
    assert who_computes([by_kernel]) == "mmfs nodes by the compiled kernel"
    differs = False
    for case in cases[name]:
        expected, found = by_body(**case.inputs), by_kernel(**case.inputs)
        for output, tensor in expected.items():
            error = relative_error(found[output].numpy(), tensor.numpy())
            assert error <= Tolerances().relative_error, (case.name, output)
        differs |= any(not torch.equal(found[output], tensor) for output, tensor in expected.items())
    assert differs, "it was one and the same computation"


def test_without_the_library_a_session_takes_the_bodies_and_says_why(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mmfs.onnxruntime, "FOLDER", tmp_path)
    said = who_computes(Session.open(exported, "ort").runners.values())
    assert said is not None
    assert said.startswith("mmfs nodes by their bodies: this installation of mmfs has no custom operators")


def test_on_a_gpu_nodes_are_computed_by_the_cuda_kernels_where_these_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (reason := mmfs.onnxruntime.why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: "libnvrtc.so")
    assert why_no_custom_operators(torch.device("cuda", 1)) is None
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: None)
    reason = why_no_custom_operators(torch.device("cuda", 1))
    assert reason is not None
    assert reason.startswith("NVRTC, which compiles the CUDA kernels, was not found")


def test_on_another_device_nodes_are_computed_by_their_bodies() -> None:
    reason = why_no_custom_operators(torch.device("xpu"))
    assert reason == "mmfs's kernels compute on a CPU or by CUDA, and the file runs on xpu"
    assert who_computes([]) is None
