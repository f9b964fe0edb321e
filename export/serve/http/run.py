"""An answer under way: the events of one request, or of the several continuations that one answer has."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from PIL import Image
from starlette.concurrency import run_in_threadpool

from export.serve.content.encoded import EncodedImage, encode_image, encode_preview
from export.serve.content.kept import Kept
from export.serve.engine.events import Cancelled, CancelReason, Completed, Event, Failed, LastEvent, Scored
from export.serve.engine.handle import Handle
from export.serve.engine.interface import Overloaded
from export.serve.errors import RequestError
from export.serve.http.metrics import Metrics
from export.serve.protocol.answer import AnswerEvent
from export.serve.protocol.sampling_locations import RecordedAnswer
from models.generation.generated import Preview, Progress

RunEvent = AnswerEvent | Scored | Cancelled
"""What an answer is made of. `Cancelled` for reason "request" alone; for any other there is an error instead."""

DO_NOT_RETRY = {"x-should-retry": "false"}
"""A header that OpenAI's clients obey: what took too long would take too long again."""


class Run:
    """Reads the events of some requests as one answer, counts them, and ends them all when one fails.

    Args:
        id: of the answer.
        client: who asked.
        handles: of its continuations.
        images: where images that are drawn are kept.
        locations: where it is kept which places MMFS sampled, for answers that ask for it.
        metrics: of the server.
        timeout: seconds after which it is cancelled.
        on_end: called once, when it is over.
    """

    def __init__(
        self,
        id: str,
        client: str,
        handles: Sequence[Handle],
        *,
        images: Kept[bytes],
        locations: Kept[RecordedAnswer],
        metrics: Metrics,
        timeout: float,
        on_end: Callable[[], None],
    ) -> None:
        self.id = id
        self.client = client
        self.handles = list(handles)
        self.completed: list[Completed] = []
        self.error: Exception | None = None
        self.cancel_reason: CancelReason | None = None
        self._images = images
        self._locations = locations
        self._metrics = metrics
        self._on_end = on_end
        self._timeout = timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self.cancel, "timeout")
        self._begin = time.monotonic()
        self._num_answered = 0
        self._latest: dict[tuple[int, type], float] = {}

    def cancel(self, reason: CancelReason) -> None:
        """Stop all of it."""
        for handle in self.handles:
            handle.cancel(reason)

    def close(self, reason: CancelReason = "client") -> None:
        """It is over: for this reason, unless all has been read."""
        if self._on_end is not _nothing:
            self._timer.cancel()
            self.cancel(reason)
            if self.error is None and not self.has_ended:
                reasons = {one.cancel_reason or reason for one in self.handles}
                self._metrics.cancelled.labels(min(reasons)).inc()
            on_end, self._on_end = self._on_end, _nothing
            on_end()

    @property
    def has_ended(self) -> bool:
        """Whether the answer came to its end without an error; for a cancelled one, what there was by then."""
        return self._num_answered == len(self.handles) or self.cancel_reason == "request"

    async def events(self, *, whole_previews: bool = False) -> AsyncIterator[tuple[int, RunEvent]]:
        """The events of all continuations as they come, each with the continuation's number.

        Args:
            whole_previews: previews of full size as PNG; else small ones as JPEG.

        Raises:
            RequestError: one of them failed, or was cancelled by the server.
        """
        waiting = {asyncio.ensure_future(anext(handle)): number for number, handle in enumerate(self.handles)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    number = waiting.pop(future)
                    event = future.result()
                    self._count(number, event)
                    if not isinstance(event, LastEvent):
                        waiting[asyncio.ensure_future(anext(self.handles[number]))] = number
                    yield number, await self._to_send(number, event, whole_previews)
        finally:
            for future in waiting:
                future.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*waiting, return_exceptions=True)

    async def _to_send(self, number: int, event: Event, whole_previews: bool) -> RunEvent:
        match event:
            case Image.Image():
                return await run_in_threadpool(self._kept, event)
            case Preview(image=image, done=done, num_inference_steps=num_steps):
                return await run_in_threadpool(encode_preview, image, done, num_steps, whole=whole_previews)
            case Failed(error=error):
                self.error = error
                raise error_of(error) from error
            case Cancelled(reason=reason):
                self.cancel_reason = reason
                if reason != "request":
                    raise self._ended_by_server(reason)
            case Completed(finished=finished):
                self._num_answered += 1
                self.completed.append(event)
                if finished.sampling_locations is not None:  # kept before the client can ask for them
                    recorded = RecordedAnswer(self.client, finished.sampling_locations)
                    self._locations.put(self.handles[number].id, recorded, recorded.num_bytes)
            case Scored():
                self._num_answered += 1
        return event

    def _kept(self, image: Image.Image) -> EncodedImage:
        encoded = encode_image(image)
        self._images.put(encoded.digest, encoded.png, len(encoded.png))
        return encoded

    def _ended_by_server(self, reason: CancelReason) -> RequestError:
        if reason == "timeout":
            message = f"The answer took longer than {self._timeout:g} seconds, which is the limit. Ask for less."
            return RequestError(504, message, headers=DO_NOT_RETRY)
        return RequestError(503, "The server is stopping. Ask again after it has started, or another one.")

    def _count(self, number: int, event: Event) -> None:
        now = time.monotonic()
        since = now - self._begin
        if not self._latest:
            self._metrics.first_token.observe(since)
        kind = str if isinstance(event, str) else type(event)
        before = self._latest.get((number, kind))
        if kind is str and before is not None:
            self._metrics.between_tokens.observe(now - before)
        elif isinstance(event, Progress) and before is not None and event.step > 1:
            self._metrics.denoising_step.observe(now - before)
        elif isinstance(event, Preview) and before is None:
            self._metrics.first_preview.observe(since)
        self._latest[number, kind] = now
        if isinstance(event, Completed):
            self._metrics.completed(event, since)


def error_of(error: Exception) -> RequestError:
    """Why an engine could not answer, as HTTP has it."""
    if isinstance(error, Overloaded):
        return RequestError(503, str(error), headers=retry_after(error))
    if isinstance(error, ValueError | TypeError):
        return RequestError(400, str(error))
    return RequestError(500, "The model failed at this request. The server's log says where.")


def retry_after(error: Overloaded) -> dict[str, str]:
    """The header that tells a client when to come again."""
    return {"Retry-After": str(max(1, round(error.retry_after)))}


def was_cancelled() -> RequestError:
    """What an answer that cannot be cut short is when its client has cancelled it."""
    return RequestError(409, "The request was cancelled.", headers=DO_NOT_RETRY)


def _nothing() -> None: ...
