"""What all requests of a server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.serve.content.fetching import Fetcher
from export.serve.content.kept import Kept
from export.serve.content.loading import DocumentLoader
from export.serve.engine.handle import Handle
from export.serve.engine.interface import STOPPING, Asker, Engine, EngineStopped, NeverFits, QueueFull
from export.serve.engine.interface import Request as Work
from export.serve.errors import RequestError
from export.serve.http.metrics import Metrics
from export.serve.http.run import Run, retry_after
from export.serve.protocol.responses import StoredResponse
from export.serve.protocol.sampling_locations import RecordedAnswer
from export.serve.settings import Settings
from models.config import MMInterleavedConfig
from models.generation.state import GenerativeModel, can_record, processor_of
from models.images.fit import FINER

LOADING = "The model is being loaded. Try again in a moment."


@dataclass(frozen=True)
class Served:
    """A model that answers."""

    engine: Engine
    config: MMInterleavedConfig
    loader: DocumentLoader
    tells_locations: bool
    """Whether it can record where it samples."""

    @property
    def num_visual_tokens(self) -> int:
        """Of an image that is read."""
        return self.config.visual_tokenizer.num_visual_tokens


class Service:
    """A server without its HTTP side.

    Args:
        settings: how it is set up.
        fetcher: of images elsewhere; None: one for `settings.image_hosts`.
        clock: seconds that only go forward.
    """

    def __init__(
        self, settings: Settings, fetcher: Fetcher | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.metrics = Metrics()
        self.images: Kept[bytes] = Kept(settings.keep, settings.max_kept_bytes, clock)
        self.responses: Kept[StoredResponse] = Kept(settings.keep, settings.max_kept_bytes, clock)
        self.locations: Kept[RecordedAnswer] = Kept(settings.keep, settings.max_kept_bytes, clock)
        self.fetcher = fetcher or Fetcher(settings.image_hosts)
        self.runs: dict[str, Run] = {}
        self.is_stopping = False
        self._served: Served | None = None

    def serve(self, model: GenerativeModel, engine: Engine) -> None:
        """The model is loaded: answer from now on."""
        processor = processor_of(model)
        min_side = FINER * max(processor.height, processor.width)
        loader = DocumentLoader(self.settings.content, min_side, self.images, self.fetcher)
        self.metrics.watch(engine)
        self._served = Served(engine, model.config, loader, can_record(model))

    @property
    def served(self) -> Served:
        """The model.

        Raises:
            RequestError: 503 while it is being loaded, or the server stops.
        """
        if self.is_stopping:
            raise RequestError(503, STOPPING, headers={"Retry-After": str(round(self.settings.grace))})
        if self._served is None:
            raise RequestError(503, LOADING, headers={"Retry-After": "5"})
        return self._served

    def check_room(self) -> None:
        """Raise RequestError (429) while the queue is full: before a body is read, which may be large."""
        engine, limits = self.served.engine, self.settings.engine
        num_waiting = engine.stats().num_waiting
        if num_waiting >= limits.max_queued:
            message = f"{num_waiting} requests wait already, which is the limit. Try again later."
            raise self.refused(QueueFull(message, 1.0))

    def asker(self, client: str) -> Asker:
        """Who asks, for the engine."""
        return Asker(client=client, cache_scope="" if self.settings.share_cache else client)

    async def begin(self, id: str, requests: Sequence[Work]) -> Run:
        """Hand requests to the engine that are one answer together: all of them or none.

        Raises:
            RequestError: 429 if the queue is full, 400 if they can never be computed, 503 if the engine takes no more.
        """
        submitting = asyncio.ensure_future(asyncio.to_thread(_submitted, self.served.engine, requests))
        try:
            handles = await asyncio.shield(submitting)
        except asyncio.CancelledError:  # the client has gone, and the thread works on
            submitting.add_done_callback(_cancel_submitted)
            raise
        except (QueueFull, NeverFits, EngineStopped) as error:
            raise self.refused(error) from error
        self.runs[id] = run = Run(
            id,
            requests[0].asker.client,
            handles,
            images=self.images,
            locations=self.locations,
            metrics=self.metrics,
            timeout=self.settings.timeout,
            on_end=lambda: self._forget(id),
        )
        return run

    def _forget(self, id: str) -> None:
        self.runs.pop(id, None)

    def refused(self, error: QueueFull | NeverFits | EngineStopped) -> RequestError:
        """What the engine did not take, as HTTP has it."""
        if isinstance(error, NeverFits):
            self.metrics.rejections.labels("too_large").inc()
            return RequestError(400, str(error))
        if isinstance(error, EngineStopped):
            return RequestError(503, str(error))
        self.metrics.rejections.labels("queue_full").inc()
        return RequestError(429, str(error), code="rate_limit_exceeded", headers=retry_after(error))

    def close(self) -> None:
        """Stop the engine."""
        self.is_stopping = True
        if self._served is not None:
            self._served.engine.close()


def _submitted(engine: Engine, requests: Sequence[Work]) -> list[Handle]:
    """The handles of all requests, or an exception and none of them under way."""
    handles: list[Handle] = []
    try:
        for request in requests:
            handles.append(engine.submit(request))
    except Exception:
        _cancel(handles)
        raise
    return handles


def _cancel(handles: Sequence[Handle]) -> None:
    for handle in handles:
        handle.cancel("client")


def _cancel_submitted(submitting: asyncio.Future[list[Handle]]) -> None:
    if submitting.exception() is None:
        _cancel(submitting.result())
