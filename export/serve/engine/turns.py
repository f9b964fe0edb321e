"""An engine that computes one step of one request at a time and goes round: right and fair, without batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, fields

from PIL import Image

from export.serve.engine.events import Cancelled, Completed, Event, Failed, LastEvent, Scored, Timings
from export.serve.engine.handle import Handle
from export.serve.engine.interface import (
    Engine,
    EngineStats,
    EngineStopped,
    GenerationRequest,
    QueuedTooLong,
    QueueFull,
    Request,
    ScoreRequest,
)
from export.serve.engine.limits import EngineLimits
from models.generation.documents import Segment
from models.generation.generate import generate_stream
from models.generation.generated import Finished, Preview, Progress
from models.generation.options import GenerationOptions
from models.generation.scoring import score
from models.generation.state import GenerativeModel
from models.generation.stream import GenerationStream

USUAL_SECONDS = 1.0
"""Of a request, before any has been measured."""

NEWEST = 0.2
"""The share of the newest request in the average of how long they take."""


class TurnTakingEngine(Engine):
    """Lets up to `limits.max_running` requests take turns, one step each; the others wait in the order of their coming,
    but for a client that holds half of the places already.

    Args:
        model: used by this engine's thread alone.
        limits: how much is done at once.
    """

    def __init__(self, model: GenerativeModel, limits: EngineLimits) -> None:
        self.model = model
        self.limits = limits
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._seconds = USUAL_SECONDS  # that a request takes, on average
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Handle:
        """As `Engine.submit`."""
        job = _Job(request)
        handle = job.handle = Handle(request.id, lambda: self._wake(job))
        with self._changed:
            if self._stopped:
                raise EngineStopped("The server is stopping. Ask another one, or this one after it has started again.")
            if len(self._waiting) >= self.limits.max_queued:
                raise QueueFull(
                    f"{len(self._waiting)} requests wait already, which is the limit. Try again later.",
                    self._until_free(len(self._waiting)),
                )
            self._waiting.append(job)
            self._changed.notify()
        return handle

    def stats(self) -> EngineStats:
        """As `Engine.stats`."""
        with self._changed:
            return EngineStats(len(self._running), len(self._waiting))

    def close(self) -> None:
        """As `Engine.close`."""
        with self._changed:
            self._stopped = True
            jobs = [*self._running, *self._waiting]
            self._changed.notify()
        for job in jobs:
            job.handle.cancel("stopping")
        self._thread.join()

    def _wake(self, job: _Job) -> None:
        """Its client has read something, or it is cancelled."""
        stream = job.stream
        if job.handle.cancel_reason is not None and stream is not None:
            stream.close()  # a step may be many tokens, where they make no text yet
        with self._changed:
            self._changed.notify()

    def _until_free(self, num_before: int) -> float:
        """Seconds until so many requests are done."""
        return max(1.0, self._seconds * num_before / self.limits.max_running)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._drop_cancelled()
                self._admit()
                ready = [job for job in self._running if not job.handle.is_full]
                if not ready:
                    if self._stopped and not self._waiting and not self._running:
                        return
                    self._changed.wait(self._until_timeout())
                    continue
            for job in ready:
                if job.handle.cancel_reason is None and job.step(self.model):
                    with self._changed:
                        self._running.remove(job)
                        self._seconds += NEWEST * (time.monotonic() - job.started - self._seconds)

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for jobs in (self._running, self._waiting):
            for job in list(jobs):
                if (reason := job.handle.cancel_reason) is not None:
                    jobs.remove(job)
                    job.end(Cancelled(reason))
                elif jobs is self._waiting and now - job.submitted >= self.limits.queue_timeout:
                    jobs.remove(job)
                    message = (
                        f"The request has waited {self.limits.queue_timeout:g} seconds for a place. Try again later."
                    )
                    job.end(Failed(QueuedTooLong(message, self._until_free(len(self._waiting)))))

    def _admit(self) -> None:
        for job in list(self._waiting):
            if len(self._running) >= self.limits.max_running:
                return
            client = job.request.asker.client
            of_client = sum(other.request.asker.client == client for other in self._running)
            others_wait = any(other.request.asker.client != client for other in self._waiting)
            if others_wait and 2 * of_client >= self.limits.max_running:
                continue
            self._waiting.remove(job)
            self._running.append(job)
            job.started = time.monotonic()

    def _until_timeout(self) -> float | None:
        """Seconds until the first of those that wait has waited too long."""
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0].submitted + self.limits.queue_timeout - time.monotonic())


@dataclass(eq=False)
class _Job:
    """A request and how far it is."""

    request: Request
    handle: Handle = field(init=False)
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    reading: float = 0.0
    writing: float = 0.0
    drawing: float = 0.0
    num_images: int = 0
    stream: GenerationStream[Segment | Progress | Preview | Finished] | None = None

    @property
    def timings(self) -> Timings:
        return Timings(self.started - self.submitted, self.reading, self.writing, self.drawing)

    def step(self, model: GenerativeModel) -> bool:
        """Compute the next event; returns whether it was the last."""
        try:
            event = self._score(model, self.request) if isinstance(self.request, ScoreRequest) else self._next(model)
        except StopIteration:  # it was cancelled meanwhile
            return False
        except Exception as error:  # one request fails, the others go on
            event = Failed(error)
        if isinstance(event, Completed | Scored | Failed):
            self.end(event)
            return True
        self.handle.put(event)
        return False

    def end(self, event: LastEvent) -> None:
        """Let go of what the request holds, and tell its last event."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()
        self.handle.put(event)

    def _score(self, model: GenerativeModel, request: ScoreRequest) -> Scored:
        begin = time.monotonic()
        scores = score(model, request.document, request.candidates, rank_by=request.rank_by)
        self.reading = time.monotonic() - begin
        return Scored(scores, self.timings)

    def _next(self, model: GenerativeModel) -> Event:
        begin = time.monotonic()
        if self.stream is None:
            assert isinstance(self.request, GenerationRequest)
            options = {one.name: getattr(self.request.options, one.name) for one in fields(GenerationOptions)}
            self.stream = generate_stream(
                model, self.request.document, preview_every=self.request.preview_every, **options
            )
        event = next(self.stream)
        seconds = time.monotonic() - begin
        if self.reading == 0.0:
            self.reading = seconds  # with the first token, or the first denoising step
        elif isinstance(event, Progress | Preview | Image.Image):
            self.drawing += seconds
        else:
            self.writing += seconds
        if isinstance(event, Finished):
            num_images = sum(not isinstance(segment, str) for segment in self.request.document[event.num_cut :])
            return Completed(event, num_images, self.num_images, self.timings)
        self.num_images += isinstance(event, Image.Image)
        return event
