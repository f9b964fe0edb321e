"""BEVFormer's spatial cross-attention, two of six cameras visible: lists of images beside the two ways without them.

A result is compared with the float64 reference before anything is timed, as in bench_op.py: a sample of the queries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mmfs
from bench import cameras, measure
from bench.bench_op import TOLERANCE, call_of, checked_queries, own_op, results, results_of_sample, time_calls
from bench.workloads import Scale


@pytest.fixture
def case(workload: str, scale: Scale) -> cameras.CamerasWorkload:
    return cameras.WORKLOADS[workload].at(scale)


@pytest.fixture
def op(implementation: str, dtype: torch.dtype, device: str) -> Callable[..., Tensor]:
    """The function to measure; skips, with the reason, where it does not run here."""
    if implementation in cameras.PEERS:
        if dtype != torch.float32:
            pytest.skip("the peers are compared in float32")
        return cameras.PEERS[implementation]
    return own_op(cameras.CamerasWorkload.op, implementation, dtype, device)


@functools.lru_cache(maxsize=1)
def exact_results(workload: str, scale: Scale, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The reference in float64, on the sampled queries alone."""
    case = cameras.WORKLOADS[workload].at(scale)
    op = functools.partial(mmfs.mmfs_attention, backend="reference")
    return results_of_sample(op, case, case.arguments(dtype, device), device)


@pytest.fixture
def error(
    op: Callable[..., Tensor],
    case: cameras.CamerasWorkload,
    workload: str,
    direction: str,
    implementation: str,
    scale: Scale,
    dtype: torch.dtype,
    device: str,
) -> float:
    """Of output and gradients, relative to float64."""
    arguments = case.arguments(dtype, device)
    found = results(op, case, arguments, checked_queries(case, device), backward=direction == "forward-backward")
    error = measure.worst_error(found, exact_results(workload, scale, dtype, device)[: len(found)])
    if error > TOLERANCE[dtype]:
        pytest.fail(f"{implementation} is wrong by {error:.1e} of the float64 result on {workload}")
    return error


# op and error stand before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.parametrize("implementation", ["cpu", "cuda", *cameras.PEERS])
@pytest.mark.parametrize("direction", ["forward", "forward-backward"])
@pytest.mark.parametrize("workload", cameras.WORKLOADS)
def bench_cameras(
    op: Callable[..., Tensor],
    case: cameras.CamerasWorkload,
    error: float,
    benchmark: BenchmarkFixture,
    workload: str,
    direction: str,
    implementation: str,
    num_threads: int,
    scale: Scale,
    dtype: torch.dtype,
    device: str,
) -> None:
    arguments = case.arguments(dtype, device)
    call = call_of(op, case, arguments, direction == "forward-backward")
    benchmark.group = f"{workload} {direction}"
    benchmark.extra_info |= {
        "workload": workload,
        "direction": direction,
        "implementation": implementation,
        "locations": "trained",
        "num_threads": num_threads,
        "scale": scale,
        "dtype": str(dtype).removeprefix("torch."),
        "relative_error": error,
        "num_samples": case.num_samples(arguments),
    }
    time_calls(benchmark, [call], device)
