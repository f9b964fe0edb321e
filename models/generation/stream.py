"""The iterator that `generate_stream` returns: work that any thread may stop."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event as Flag
from threading import Lock
from types import TracebackType
from typing import Generic, TypeVar

import torch

from models.torch_defaults import usual_torch_defaults

Item = TypeVar("Item")


class GenerationStream(Iterator[Item], Generic[Item]):
    """What is generated, item by item; each is computed when it is asked for.

    One thread at a time asks for items. `close` may be called from any thread and at any time, also twice, and while
    another thread waits for an item: that thread's iteration then ends after the step that it is in (a token of each
    document, a denoising step, or the reading of the prompt), whose item it still gets. A stream that was closed before
    its end ends without `Finished`.

        with model.generate_stream(document) as stream:
            for event in stream: ...

    closes it however the loop is left.

    Args:
        items: where they come from; None: a step is done and there is no item.
    """

    def __init__(self, items: Generator[Item | None, None, None]) -> None:
        self._items = items
        self._stepping = Lock()
        self._closed = Flag()

    def __iter__(self) -> GenerationStream[Item]:
        return self

    def __next__(self) -> Item:
        """The next item.

        Raises:
            StopIteration: there is none, or the stream was closed.
            RuntimeError: another thread is waiting for one.
        """
        while (item := self.step()) is None:
            pass
        return item

    def step(self) -> Item | None:
        """The next item, or None after a step that made none: for a caller that has other work between two steps.

        Raises:
            StopIteration, RuntimeError: as `__next__`.
        """
        if not self._stepping.acquire(blocking=False):
            raise RuntimeError(
                "Another thread is waiting for an item of this stream. Let one thread read it and hand the items on, "
                "or give each thread a stream of its own."
            )
        try:
            if self._closed.is_set():
                raise StopIteration
            with torch.no_grad(), usual_torch_defaults():
                return next(self._items)
        finally:
            self._stepping.release()
            if self._closed.is_set():
                self.close()  # on behalf of a thread that could not

    def close(self) -> None:
        """Stop; returns at once."""
        self._closed.set()
        if self._stepping.acquire(blocking=False):
            try:
                with torch.no_grad(), usual_torch_defaults():
                    self._items.close()
            finally:
                self._stepping.release()

    def __enter__(self) -> GenerationStream[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
