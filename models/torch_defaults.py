"""PyTorch's defaults for tensors that are made without a dtype or a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch


class _Float32Default:
    """float32 is the default dtype while any thread is inside. PyTorch has one default for all threads, unlike the
    default device: the first thread in keeps what it was, the last one out puts it back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._num_inside = 0
        self._before = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0 or torch.get_default_dtype() != torch.float32:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            # A program that has set its own meanwhile keeps it.
            if self._num_inside == 0 and torch.get_default_dtype() == torch.float32:
                torch.set_default_dtype(self._before)


_FLOAT32 = _Float32Default()


@contextmanager
def usual_torch_defaults() -> Iterator[None]:
    """Inside, new tensors are float32 and on the CPU unless they say otherwise, whatever `torch.set_default_dtype` and
    `torch.set_default_device` were given: transformers, diffusers and this project are written for these defaults.

    Also a decorator of functions. A generator enters it anew for each item, so that between them the caller's defaults
    apply; `models.generation.stream` does it.
    """
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_FLOAT32)
        yield
