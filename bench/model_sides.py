"""Two ways to the same result, timed in turns: a moment in which the machine is slow then affects both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import measure


def time_both(
    benchmark: BenchmarkFixture,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    *,
    name: str,
    rounds: int,
    error: float,
    device: str,
    with_memory: bool = False,
    num_calls: int = 1,
) -> None:
    """Time `ours` as the benchmark and the baseline before each of its rounds, by the timer of the benchmark
    (`--benchmark-timer`: wall time unless it says otherwise).

    Adds to the benchmark's `extra_info` how `ours` compares: "times_faster" by the medians, the medians and the least
    times of both in seconds, and where it was asked for, "memory_share", the peak of `ours` over the baseline's.

    Args:
        benchmark: of pytest-benchmark.
        ours: a call that is timed.
        baseline: the same of the other way.
        name: of the baseline.
        rounds: how often each is timed.
        error: relative difference of the two results, which has been looked at already.
        device: "cpu" or "cuda".
        with_memory: measure peak memory too, in one more turn of each.
        num_calls: how often each of the two is called at a time; the times in `extra_info` are of one call.
    """
    info = benchmark.extra_info
    info |= {"baseline": name, "relative_error": error, "num_threads": torch.get_num_threads()}
    ours, baseline = often(ours, num_calls), often(baseline, num_calls)
    timer: Callable[[], float] = benchmark._timer  # no public name; CPU time, where the machine is busy
    if with_memory:
        peaks = [measure.peak_memory_bytes(run, device) for run in (ours, baseline)]
        info |= {"peak_memory_bytes": peaks[0], "baseline_peak_memory_bytes": peaks[1]}
        if peaks[0] is not None and peaks[1]:
            info["memory_share"] = peaks[0] / peaks[1]
    baseline_s: list[float] = []
    ours_s: list[float] = []

    def before() -> None:
        baseline_s.append(seconds(baseline, device, timer) / num_calls)

    def timed() -> None:
        ours_s.append(seconds(ours, device, timer) / num_calls)

    benchmark.pedantic(timed, setup=before, rounds=rounds, warmup_rounds=1)
    info["median_s"], info["baseline_median_s"] = statistics.median(ours_s), statistics.median(baseline_s)
    info["least_s"], info["baseline_least_s"] = min(ours_s), min(baseline_s)
    info["times_faster"] = info["baseline_median_s"] / info["median_s"]
    figures = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in info.items()}
    print(f"\n{benchmark.name}: {figures}")


def often(call: Callable[[], object], times: int) -> Callable[[], None]:
    """So many calls as one, for those that are too short to be timed one by one."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def least_cpu_seconds(rounds: int, *runs: Callable[[], object]) -> list[float]:
    """CPU time of one call of each, turn by turn: the least of all rounds, which a busy machine disturbs least."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for each, run in zip(times, runs, strict=True):
            each.append(seconds(run, "cpu", time.process_time))
    return [min(each) for each in times]


def seconds(run: Callable[[], object], device: str, timer: Callable[[], float] | None = None) -> float:
    """Time of one call, until its result is there; wall time without a timer."""
    timer = timer or time.perf_counter
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start_s = timer()
    run()
    wait()
    return timer() - start_s
