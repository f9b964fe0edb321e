"""Work that is repeated on tensors at the same addresses: on a GPU it is recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NUM_WARM_UPS = 2
"""Runs before recording, in which libraries choose their algorithms and reserve memory."""


class Recorded:
    """A CUDA graph of a function; on any other device, the function itself.

    Args:
        function: without arguments or result; it reads and writes tensors whose addresses do not change, and waits
            for no result of the GPU.
        changed: those of them that a run changes and the next one reads; the warm-up restores their contents.
        device: of all of them.
    """

    def __init__(self, function: Callable[[], None], changed: Sequence[Tensor], device: torch.device) -> None:
        self.function = function
        self.changed = list(changed)
        self.device = device
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run once more."""
        if self.device.type != "cuda":
            self.function()
            return
        with torch.cuda.device(self.device):
            if self.graph is None:
                self.graph = self._record()
            self.graph.replay()

    def forget(self) -> None:
        """Record again before the next run, because a tensor has moved."""
        self.graph = None

    def _record(self) -> torch.cuda.CUDAGraph:
        before = [tensor.clone() for tensor in self.changed]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):
                self.function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        for tensor, kept in zip(self.changed, before, strict=True):
            tensor.copy_(kept)
        graph = torch.cuda.CUDAGraph()
        # This records and does not run. Other threads may use the GPU: TensorRT-RTX compiles kernels in some.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.function()
        return graph
