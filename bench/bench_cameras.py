"""BEVFormer's spatial cross-attention, two of six cameras visible: lists of images beside the two ways without them.

A result is compared with the float64 reference before anything is timed, as in bench_op.py: a sample of the queries.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mmfs
from bench import cameras, measure
from bench.bench_op import BUDGET_S, TOLERANCE, call_of, checked_queries, results
from bench.workloads import Arguments, Scale


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
    if implementation == "cuda" and (reason := mmfs.why_not_cuda(torch.empty(0, dtype=dtype, device=device))):
        pytest.skip(reason)
    if implementation == "cpu" and device != "cpu":
        pytest.skip(f"the cpu backend takes no tensors on {device}")
    function: Callable[..., Tensor] = mmfs.mmfs_attention
    return functools.partial(function, backend=implementation)


@functools.lru_cache(maxsize=1)
def exact_results(workload: str, scale: Scale, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The reference in float64, on the sampled queries alone."""
    case = cameras.WORKLOADS[workload].at(scale)
    sample = checked_queries(case, device)
    arguments: Arguments = {
        name: argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
        for name, argument in case.arguments(dtype, device).items()
    }
    arguments |= {name: arguments[name][:, sample] for name in case.per_query}
    op = functools.partial(mmfs.mmfs_attention, backend="reference")
    return results(op, case, arguments, torch.arange(len(sample), device=device), backward=True)


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
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def run() -> None:
        call()
        wait()

    run()  # compiles what is compiled at the first call
    start_s = time.perf_counter()
    peak_bytes = measure.peak_memory_bytes(run, device)
    run_s = time.perf_counter() - start_s
    benchmark.group = f"{workload} {direction}"
    benchmark.extra_info |= {
        "workload": workload,
        "direction": direction,
        "implementation": implementation,
        "locations": "trained",
        "num_threads": num_threads,
        "num_calls": 1,
        "scale": scale,
        "dtype": str(dtype).removeprefix("torch."),
        "relative_error": error,
        "peak_memory_bytes": peak_bytes,
        "num_samples": case.num_samples(arguments),
    }
    benchmark.pedantic(run, rounds=min(50, max(2, int(BUDGET_S[device] / run_s))))
