"""PyTorch's defaults for tensors that are made without a dtype or a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def usual_torch_defaults() -> Iterator[None]:
    """Inside, new tensors are float32 and on the CPU unless they say otherwise, whatever `torch.set_default_dtype` and
    `torch.set_default_device` were given: transformers, diffusers and this project are written for these defaults.

    Also a decorator of functions; for generators there is `with_usual_torch_defaults`.
    """
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


def with_usual_torch_defaults(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator, each of them made with the usual defaults; between them the caller's defaults apply."""
    while True:
        with usual_torch_defaults():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
