"""Both ops, forward and forward with backward, by every implementation that runs here.

A result is compared with the float64 reference before anything is timed: a wrong kernel has no speed. Queries do not
depend on each other, so a sample of them is compared: the implementation computes all queries, the incoming gradient
is zero outside the sample, and the reference in float64 computes the sample alone.
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
from bench import measure, peers
from bench.workloads import WORKLOADS, Arguments, Scale, Workload

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # relative, by type of the values
PEER_TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.3, torch.bfloat16: 0.3}
"""transformers' models have locations of the type of the values: a pixel off in bfloat16. The table shows the error."""
NUM_CHECKED_QUERIES = 256
BUDGET_S = 2.0  # of timed rounds for one benchmark


@pytest.fixture
def case(workload: str, scale: Scale) -> Workload:
    return WORKLOADS[workload].at(scale)


@pytest.fixture
def op(implementation: str, case: Workload, dtype: torch.dtype, device: str) -> Callable[..., Tensor]:
    """The function to measure; skips, with the reason, where it does not run here."""
    function: Callable[..., Tensor]
    if implementation == "transformers":
        function = getattr(peers, case.op)
        return function
    if implementation == "cuda" and (reason := mmfs.why_not_cuda(torch.empty(0, dtype=dtype, device=device))):
        pytest.skip(reason)
    if implementation == "cpu" and device != "cpu":
        pytest.skip(f"the cpu backend takes no tensors on {device}")
    function = getattr(mmfs, case.op)
    return functools.partial(function, backend=implementation)


@pytest.fixture
def error(
    op: Callable[..., Tensor],
    case: Workload,
    workload: str,
    direction: str,
    implementation: str,
    scale: Scale,
    dtype: torch.dtype,
    device: str,
) -> float:
    """Of output and gradients, relative to float64. Ours fails where it is wrong; a peer gets no time there."""
    found = results(
        op, case, case.arguments(dtype, device), checked_queries(case, device), backward=direction == "forward-backward"
    )
    error = measure.worst_error(found, exact_results(workload, scale, dtype, device)[: len(found)])
    sentence = f"{implementation} is wrong by {error:.1e} of the float64 result on {workload}"
    if implementation == "transformers":
        if error > PEER_TOLERANCE[dtype]:
            pytest.skip(sentence)
    elif error > TOLERANCE[dtype]:
        pytest.fail(sentence)
    return error


# op and error stand before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.parametrize("implementation", ["reference", "cpu", "cuda", "transformers"])
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
    device: str,
) -> None:
    arguments = case.arguments(dtype, device)
    run = timed_call(op, case, arguments, direction == "forward-backward", device)
    start_s = time.perf_counter()
    peak_bytes = measure.peak_memory_bytes(run, device)
    call_s = time.perf_counter() - start_s

    benchmark.group = f"{workload} {direction}"
    benchmark.extra_info |= {
        "workload": workload,
        "direction": direction,
        "implementation": implementation,
        "num_threads": num_threads,
        "scale": scale,
        "dtype": str(dtype).removeprefix("torch."),
        "relative_error": error,
        "peak_memory_bytes": peak_bytes,
        "num_samples": case.num_samples(arguments),
    }
    benchmark.pedantic(run, rounds=min(50, max(2, int(BUDGET_S / call_s))))


def timed_call(
    op: Callable[..., Tensor], case: Workload, arguments: Arguments, backward: bool, device: str
) -> Callable[[], None]:
    """One call, with its gradients if asked for, until its result is there."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                op(**arguments)
            wait()

        return forward

    arguments = arguments | {name: arguments[name].detach().requires_grad_() for name in case.differentiated}
    leaves = [arguments[name] for name in case.differentiated]
    grad = torch.randn_like(op(**arguments))

    def forward_backward() -> None:
        torch.autograd.grad(op(**arguments), leaves, grad)
        wait()

    return forward_backward


def checked_queries(case: Workload, device: str) -> Tensor:
    """Indices of queries, evenly spread, first and last among them."""
    num_checked = min(case.num_queries, NUM_CHECKED_QUERIES)
    return torch.linspace(0, case.num_queries - 1, num_checked, device=device).round().long()


def results(
    op: Callable[..., Tensor], case: Workload, arguments: Arguments, sample: Tensor, backward: bool
) -> list[Tensor]:
    """The sampled queries of the output; with backward, also the gradients of their sum with random signs."""
    if not backward:
        with torch.no_grad():
            return [op(**arguments)[:, sample]]
    arguments = arguments | {name: arguments[name].detach().requires_grad_() for name in case.differentiated}
    out = op(**arguments)[:, sample]
    grads = torch.autograd.grad(out, [arguments[name] for name in case.differentiated], signs_like(out))
    sampled = [
        g[:, sample] if name in case.per_query else g for name, g in zip(case.differentiated, grads, strict=True)
    ]
    return [out.detach(), *sampled]


@functools.lru_cache(maxsize=1)  # the implementations of one workload follow each other
def exact_results(workload: str, scale: Scale, dtype: torch.dtype, device: str) -> list[Tensor]:
    """What results() should be: the reference in float64, on the sampled queries alone."""
    case = WORKLOADS[workload].at(scale)
    sample = checked_queries(case, device)
    arguments = {
        name: argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
        for name, argument in case.arguments(dtype, device).items()
    }
    arguments |= {name: arguments[name][:, sample] for name in case.per_query}
    op = functools.partial(getattr(mmfs, case.op), backend="reference")
    return results(op, case, arguments, torch.arange(len(sample), device=device), backward=True)


def signs_like(out: Tensor) -> Tensor:
    """+1 and -1, the same for every type and device."""
    signs = torch.randint(0, 2, out.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return signs.to(out)
