"""How long a GPU works on a call, without the time that Python takes to launch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

BUDGET_S = 0.2  # of timed replays


def device_time_s(calls: Sequence[Callable[[], object]]) -> float:
    """Mean of one call of the sequence: the median of replays of a CUDA graph that holds them all.

    Each call has inputs of its own. Together they are larger than the L2 cache (`sets_of_inputs`), so that none of
    them finds there what the replay before has read.

    Raises:
        RuntimeError: a call cannot be captured, as one that waits for the device.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # captured memory is allocated once all kernels are compiled and loaded
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times_s = [_replayed_s(graph) for _ in range(3)]
    times_s = [_replayed_s(graph) for _ in range(min(200, max(5, int(BUDGET_S / min(times_s)))))]
    return sorted(times_s)[len(times_s) // 2] / len(calls)


def _replayed_s(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def sets_of_inputs(set_bytes: int, device: str) -> int:
    """How many sets of inputs a benchmark goes through in turn: on a GPU, all but one fill the L2 cache."""
    if device != "cuda":
        return 1
    cache_bytes: int = torch.cuda.get_device_properties().L2_cache_size
    return 1 + -(-cache_bytes // max(1, set_bytes))
