"""What joins the engine's thread with the one client that reads a request's events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from export.serve.engine.events import CancelReason, Event, LastEvent
from models.generation.generated import Preview, Progress

BUFFERED_EVENTS = 8
"""Events that wait for a client before its request is paused. Text counts once however long it is, and of a denoising
step only the newest is kept, so these are images mostly."""


class Handle(AsyncIterator[Event]):
    """A submitted request: its events, to be read in one asyncio loop, and the way to cancel it.

    Args:
        id: of the request.
        on_change: called, in whatever thread, when the request is cancelled or its buffer is no longer full, so that an
            engine that sleeps wakes up.
    """

    def __init__(self, id: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.id = id
        self._on_change = on_change
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._ended = False
        self._cancel_reason: CancelReason | None = None
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Stop the request, if it has not ended. The first reason counts."""
        with self._lock:
            if self._ended or self._cancel_reason is not None:
                return
            self._cancel_reason = reason
        self._on_change()

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why it is to stop; None: it is not."""
        return self._cancel_reason

    @property
    def is_full(self) -> bool:
        """Whether the client has to read before there is room for more."""
        with self._lock:
            return len(self._events) >= BUFFERED_EVENTS

    def put(self, event: Event) -> None:
        """For the engine: append an event. After the last one nothing is taken any more."""
        with self._lock:
            if self._ended:
                return
            self._ended = isinstance(event, LastEvent)
            self._append(event)
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, future = waiting
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(_wake, future)

    def _append(self, event: Event) -> None:
        before = self._events[-1] if self._events else None
        if isinstance(event, str) and isinstance(before, str):
            self._events[-1] = before + event
        elif isinstance(event, Progress | Preview) and type(before) is type(event):
            self._events[-1] = event
        else:
            self._events.append(event)

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            StopAsyncIteration: the last one has been read.
        """
        while True:
            with self._lock:
                if self._events:
                    was_full = len(self._events) == BUFFERED_EVENTS
                    event = self._events.popleft()
                    break
                if self._ended:
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiting = loop, future
            await future
        if was_full:
            self._on_change()
        return event


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
