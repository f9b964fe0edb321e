"""Whole models of transformers before and after `mmfs.replace_attention`, in turns: a forward pass, eager and compiled.

    OMP_NUM_THREADS=1 pytest bench/bench_transformers.py -s --threads 1

"times_faster" is the time of a forward pass as transformers has it over the time with mmfs, of the whole model: a
small backbone, and encoder and decoder of a released model's size (bench/transformers_models.py). Compiled is both
sides under `torch.compile`, where mmfs' op is one call in the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mmfs
from bench import measure
from bench.model_sides import time_both
from bench.transformers_models import MODELS, REALISTIC, SMALL, Case, make
from bench.workloads import Scale

TOLERANCE = 1e-4  # relative, float32: two orders of the same sums through a whole network


def outputs_of(model: Callable[..., Any], case: Case, device: str) -> tuple[Tensor, ...]:
    inputs: dict[str, Any] = {name: tensor.to(device) for name, tensor in case.inputs.items()}
    with torch.no_grad():
        found = model(**inputs)
    return tuple(getattr(found, name) for name in case.outputs)


@pytest.mark.filterwarnings("ignore")  # of transformers, about settings, and of torch.compile
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", MODELS)
def bench_model_of_transformers(
    name: str, mode: str, benchmark: BenchmarkFixture, device: str, scale: Scale, num_threads: int
) -> None:
    smoke = scale == "smoke"
    if smoke and mode == "compiled":
        pytest.skip("compiling takes longer than the rest; tests/mmfs/test_attention_replacement.py does it")
    case = make(MODELS[name], SMALL if smoke else REALISTIC)
    model = case.model.to(device)
    changed = copy.deepcopy(model)
    replaced = mmfs.replace_attention(changed).replaced
    theirs: Callable[..., Any] = model
    ours: Callable[..., Any] = changed
    if mode == "compiled":
        torch.compiler.reset()
        theirs, ours = torch.compile(model), torch.compile(changed)
    error = measure.worst_error(outputs_of(ours, case, device), outputs_of(theirs, case, device))
    assert error < TOLERANCE, f"the outputs differ by {error:.1e}"
    time_both(
        benchmark,
        lambda: outputs_of(ours, case, device),
        lambda: outputs_of(theirs, case, device),
        name="transformers",
        rounds=1 if smoke else 2,
        error=error,
        device=device,
    )
    benchmark.extra_info |= {"replaced": len(replaced), "num_threads": torch.get_num_threads(), "scale": scale}
