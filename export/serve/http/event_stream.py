"""An answer as server-sent events, which stops being computed when nobody reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from export.serve.http.run import Run

PING_SECONDS = 10.0
"""Of silence, after which a comment is sent: proxies close connections on which nothing moves."""

PING = b": ping\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream; charset=utf-8"}

Answer = TypeVar("Answer")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(run: Run, receive: Receive, answer: Awaitable[Answer]) -> Answer:
    """An answer that is sent whole, given up when its client goes away: without a stream, nobody else would notice.

    Raises:
        ClientGone: it went away.
    """
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_leaves(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        await _cancel(working, leaving)
        run.close()


class EventStream(Response):
    """Sends lines as they come.

    Args:
        run: what the lines tell of; it is closed when the stream ends, however it ends.
        lines: the events as they are sent.
        client_timeout: seconds that the client may take to read a piece.
        headers: further ones.
    """

    def __init__(
        self, run: Run, lines: AsyncIterator[bytes], client_timeout: float, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(None, headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._run = run
        self._lines = lines
        self._client_timeout = client_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_leaves(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _cancel(sending, leaving)
            self._run.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        following = asyncio.ensure_future(anext(self._lines, None))
        try:
            while True:
                await asyncio.wait((following,), timeout=PING_SECONDS)
                line = following.result() if following.done() else PING
                if line is None:
                    break
                if following.done():
                    following = asyncio.ensure_future(anext(self._lines, None))
                async with asyncio.timeout(self._client_timeout):
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            self._run.close("slow")
        finally:
            await _cancel(following)


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
