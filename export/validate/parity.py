"""A component in onnxruntime against the same component in PyTorch, on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.components.check_inputs import Case
from export.components.component import Component
from export.runtime.onnxruntime_runner import session_options
from export.store.manifest import CaseResult

Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Runs a component: float32 inputs by name to float32 outputs by name."""


class ParityError(RuntimeError):
    """An exported file does not compute what PyTorch computes."""


def open_session(file: Path, *, custom_operators: bool = False) -> onnxruntime.InferenceSession:
    """An ONNX file on the CPU, with as many threads as PyTorch uses; mmfs nodes by their bodies, or by the compiled
    kernel."""
    options = session_options(custom_operators=custom_operators)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest error of an element relative to its own size, or to the root mean square of all where that is larger.

    The lower bound keeps elements near zero from dominating. Infinite if a value is not finite, or if the right result
    is all zeros and the other is not.
    """
    if actual.shape != expected.shape:
        raise ParityError(f"the shape is {list(actual.shape)} where PyTorch has {list(expected.shape)}")
    if expected.size == 0:
        return 0.0
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    difference = np.abs(actual - expected)
    if not difference.any():
        return 0.0
    size = np.maximum(np.abs(expected), np.sqrt(np.mean(expected**2)))
    return float("inf") if not size.all() else float((difference / size).max())


def check(component: Component, file: Path, cases: Sequence[Case]) -> list[CaseResult]:
    """Run every case in both.

    Raises:
        ParityError: naming component, case, output and error.
    """
    session = open_session(file)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = session.run(list(component.outputs), feeds)
        return {name: torch.from_numpy(array) for name, array in zip(component.outputs, found, strict=True)}

    return check_run(component, run, cases)


def check_run(component: Component, run: Run, cases: Sequence[Case]) -> list[CaseResult]:
    """Run every case in PyTorch and with `run`.

    Raises:
        ParityError: naming component, case, output and error.
    """
    results = []
    for case in cases:
        where = f"{component.name}, case {case.name!r}"
        expected = component.run(case.inputs)
        try:
            found = run(case.inputs)
        except onnxruntime.capi.onnxruntime_pybind11_state.OnnxRuntimeException as error:
            raise ParityError(f"{where}: onnxruntime cannot run it: {error}") from error
        errors = {}
        for name, tensor in expected.items():
            try:
                errors[name] = relative_error(found[name].numpy(), tensor.numpy())
            except ParityError as error:
                raise ParityError(f"{where}: output {name}: {error}.") from None
            if not errors[name] <= component.tolerances.relative_error:
                raise ParityError(
                    f"{where}: output {name} is off by {errors[name]:.2e} relative to PyTorch; "
                    f"{component.tolerances.relative_error:.0e} is allowed."
                )
        results.append(CaseResult(case.name, {n: list(t.shape) for n, t in case.inputs.items()}, errors))
    return results
