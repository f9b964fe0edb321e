"""Both ops, forward and forward with backward, by every implementation that runs here.

Wall time is that of calls from Python until the device is done; on a GPU the time of the device alone stands beside it.

A result is compared with the float64 reference before anything is timed: the speed of a wrong result means nothing.
Queries do not depend on each other, so a sample of them is compared: the implementation computes all queries, the
incoming gradient is zero outside the sample, and the reference in float64 computes the sample alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mmfs
from bench import device_time, measure, peers
from bench.workloads import WORKLOADS, Arguments, Call, Locations, Scale, Workload

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # relative, by type of the values
PEER_TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.3, torch.bfloat16: 0.3}
"""transformers' models have locations of the type of the values: a pixel off in bfloat16. The table shows the error."""
NUM_CHECKED_QUERIES = 256
BUDGET_S = {"cpu": 2.0, "cuda": 0.3}  # of timed rounds for one benchmark


@pytest.fixture
def case(workload: str, scale: Scale) -> Workload:
    return WORKLOADS[workload].at(scale)


@pytest.fixture
def op(implementation: str, case: Workload, dtype: torch.dtype, device: str) -> Callable[..., Tensor]:
    """The function to measure; skips, with the reason, where it does not run here."""
    if implementation in peers.PEERS:
        if reason := peers.why_not(implementation, case.op, device):
            pytest.skip(reason)
        return peers.peer_op(implementation, case.op)
    return own_op(case.op, implementation, dtype, device)


def own_op(op: str, backend: str, dtype: torch.dtype, device: str) -> Callable[..., Tensor]:
    """mmfs.<op> by a backend; skips, with the reason, where it does not run here."""
    if backend == "cuda" and (reason := mmfs.why_not_cuda(torch.empty(0, dtype=dtype, device=device))):
        pytest.skip(reason)
    if backend == "cpu" and device != "cpu":
        pytest.skip(f"the cpu backend takes no tensors on {device}")
    return functools.partial(getattr(mmfs, op), backend=backend)


@pytest.fixture
def error(
    op: Callable[..., Tensor],
    case: Workload,
    workload: str,
    direction: str,
    implementation: str,
    scale: Scale,
    dtype: torch.dtype,
    locations: Locations,
    device: str,
) -> float:
    """Of output and gradients, relative to float64. Ours fails where it is wrong; a peer gets no time there."""
    arguments = case.arguments(dtype, device, locations=locations)
    found = results(op, case, arguments, checked_queries(case, device), backward=direction == "forward-backward")
    function = "sdpa" if implementation == "sdpa" else "reference"
    exact = exact_results(workload, scale, dtype, device, locations, function)
    error = measure.worst_error(found, exact[: len(found)])
    sentence = f"{implementation} is wrong by {error:.1e} of the float64 result on {workload}"
    if implementation in peers.PEERS:
        if error > PEER_TOLERANCE[dtype]:
            pytest.skip(sentence)
    elif error > TOLERANCE[dtype]:
        pytest.fail(sentence)
    return error


# op and error stand before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.parametrize("implementation", ["reference", "cpu", "cuda", *peers.PEERS])
@pytest.mark.parametrize("direction", ["forward", "forward-backward"])
@pytest.mark.parametrize("workload", WORKLOADS)
def bench_op(
    op: Callable[..., Tensor],
    case: Workload,
    error: float,
    benchmark: BenchmarkFixture,
    workload: str,
    direction: str,
    implementation: str,
    num_threads: int,
    scale: Scale,
    dtype: torch.dtype,
    locations: Locations,
    device: str,
) -> None:
    arguments = case.arguments(dtype, device, locations=locations)
    num_sets = device_time.sets_of_inputs(
        sum(part.nbytes for part in arguments.values() if torch.is_tensor(part)), device
    )
    sets = [arguments, *(case.arguments(dtype, device, seed, locations) for seed in range(1, num_sets))]
    calls = [call_of(op, case, each, direction == "forward-backward") for each in sets]
    benchmark.group = f"{workload} {direction}"
    benchmark.extra_info |= {
        "workload": workload,
        "direction": direction,
        "implementation": implementation,
        "locations": locations,
        "num_threads": num_threads,
        "scale": scale,
        "dtype": str(dtype).removeprefix("torch."),
        "relative_error": error,
        "num_samples": case.num_samples(arguments),
    }
    time_calls(benchmark, calls, device)
    if device == "cuda":
        benchmark.extra_info |= on_the_device(calls, implementation)


def time_calls(benchmark: BenchmarkFixture, calls: list[Callable[[], None]], device: str) -> None:
    """Time all calls, one after another, until the device is done; adds their number and the memory of one."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def one() -> None:
        calls[0]()
        wait()

    def run() -> None:
        for call in calls:
            call()
        wait()

    run()  # compiles what is compiled at the first call
    start_s = time.perf_counter()
    peak_bytes = measure.peak_memory_bytes(one, device)
    run_s = (time.perf_counter() - start_s) * len(calls)
    benchmark.extra_info |= {"num_calls": len(calls), "peak_memory_bytes": peak_bytes}
    benchmark.pedantic(run, rounds=min(50, max(2, int(BUDGET_S[device] / run_s))))


def on_the_device(calls: list[Callable[[], None]], implementation: str) -> dict[str, float | str]:
    """device_time_s; for a peer that cannot be captured, why it has none."""
    try:
        return {"device_time_s": device_time.device_time_s(calls)}
    except RuntimeError as error:
        if implementation not in peers.PEERS:
            raise
        return {"no_device_time": str(error).partition("\n")[0]}


def call_of(op: Callable[..., Tensor], case: Call, arguments: Arguments, backward: bool) -> Callable[[], None]:
    """One call, with its gradients if asked for; does not wait for the device."""
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                op(**arguments)

        return forward

    arguments = arguments | {name: arguments[name].detach().requires_grad_() for name in case.differentiated}
    leaves = [arguments[name] for name in case.differentiated]
    grad = torch.randn_like(op(**arguments))

    def forward_backward() -> None:
        torch.autograd.grad(op(**arguments), leaves, grad, allow_unused=True)  # sdpa takes no offsets

    return forward_backward


def checked_queries(case: Call, device: str) -> Tensor:
    """Indices of queries, evenly spread, first and last among them."""
    num_checked = min(case.num_queries, NUM_CHECKED_QUERIES)
    return torch.linspace(0, case.num_queries - 1, num_checked, device=device).round().long()


def results(
    op: Callable[..., Tensor], case: Call, arguments: Arguments, sample: Tensor, backward: bool
) -> list[Tensor]:
    """The sampled queries of the output; with backward, also the gradients of their sum with random signs."""
    if not backward:
        with torch.no_grad():
            return [op(**arguments)[:, sample]]
    arguments = arguments | {name: arguments[name].detach().requires_grad_() for name in case.differentiated}
    out = op(**arguments)[:, sample]
    leaves = [arguments[name] for name in case.differentiated]
    grads = torch.autograd.grad(out, leaves, signs_like(out), allow_unused=True)
    sampled = [
        g[:, sample] if name in case.per_query else g
        for name, g in zip(case.differentiated, grads, strict=True)
        if g is not None
    ]
    return [out.detach(), *sampled]


@functools.lru_cache(maxsize=1)  # the implementations of one workload follow each other
def exact_results(
    workload: str,
    scale: Scale,
    dtype: torch.dtype,
    device: str,
    locations: Locations = "trained",
    function: Literal["reference", "sdpa"] = "reference",
) -> list[Tensor]:
    """What results() should be: the reference, or sdpa itself, in float64, on the sampled queries alone."""
    case = WORKLOADS[workload].at(scale)
    op: Callable[..., Tensor] = functools.partial(getattr(mmfs, case.op), backend="reference")
    if function == "sdpa":
        op = peers.peer_op("sdpa", case.op)
    return results_of_sample(op, case, case.arguments(dtype, device, locations=locations), device)


def results_of_sample(op: Callable[..., Tensor], case: Call, arguments: Arguments, device: str) -> list[Tensor]:
    """results() in float64, where the sampled queries alone are computed."""
    sample = checked_queries(case, device)
    arguments = {
        name: argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
        for name, argument in arguments.items()
    }
    arguments |= {name: arguments[name][:, sample] for name in case.per_query}
    return results(op, case, arguments, torch.arange(len(sample), device=device), backward=True)


def signs_like(out: Tensor) -> Tensor:
    """+1 and -1, the same for every type and device."""
    signs = torch.randint(0, 2, out.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return signs.to(out)
