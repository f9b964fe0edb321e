"""An engine without a model: it says what a test wrote, and stops when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from export.serve.engine.events import Cancelled, Completed, Event, Failed, LastEvent, Timings
from export.serve.engine.handle import Handle
from export.serve.engine.interface import Engine, EngineStats, EngineStopped, QueueFull, Request
from models.generation.generated import Finished

Script = Callable[[Request], Iterator[Event]]
END = Completed(Finished("end", 0, 3, 2, 0), 0, 0, Timings())


class ScriptedEngine(Engine):
    """A thread for each request, which goes on as `Handle.is_full` and `cancel_reason` let it.

    Args:
        script: the events of a request; an exception of it is its `Failed`.
        places: requests at once; more are refused.
    """

    def __init__(self, script: Script, places: int = 100) -> None:
        self.script = script
        self.places = places
        self.num_events = 0
        self.num_waiting = 0
        self._handles: list[Handle] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, request: Request) -> Handle:
        if self._stopped:
            raise EngineStopped("stopped")
        if len(self._handles) >= self.places:
            raise QueueFull("No place is free. Try again later.", 1.0)
        handle = Handle(request.id)
        self._handles.append(handle)
        self._threads.append(threading.Thread(target=self._work, args=(request, handle), daemon=True))
        self._threads[-1].start()
        return handle

    def stats(self) -> EngineStats:
        return EngineStats(len(self._handles), self.num_waiting)

    def close(self) -> None:
        self._stopped = True
        for handle in list(self._handles):
            handle.cancel("stopping")
        for thread in self._threads:
            thread.join()

    def _work(self, request: Request, handle: Handle) -> None:
        handle.put(self._last(request, handle))
        self._handles.remove(handle)

    def _last(self, request: Request, handle: Handle) -> LastEvent:
        try:
            for event in self.script(request):
                while handle.is_full and handle.cancel_reason is None:
                    time.sleep(0.002)
                if handle.cancel_reason is not None:
                    return Cancelled(handle.cancel_reason)
                if isinstance(event, LastEvent):
                    return event
                self.num_events += 1
                handle.put(event)
        except Exception as error:
            return Failed(error)
        return END


def said(*events: Event) -> Script:
    """The same for every request."""
    return lambda request: iter((*events, END))


def without_end(words: Sequence[str] = ("word ",), pause: float = 0.01) -> Script:
    """Text that goes on until somebody stops it."""

    def script(request: Request) -> Iterator[Event]:
        while True:
            yield from words
            time.sleep(pause)

    return script
