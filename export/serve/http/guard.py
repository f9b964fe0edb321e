"""Around every request: its id, who asks and under which name, headers, errors as clients expect them, a log line."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.serve.errors import RequestError
from export.serve.http.event_stream import ClientGone
from export.serve.http.hosts import HostNames
from export.serve.http.keys import Keys
from export.serve.http.metrics import Metrics

LOG = logging.getLogger("export.serve")
FREE = re.compile(r"/|/health|/live|/page/[\w./-]+|/v1/mmfs/images/[0-9a-f]{64}\.png")
"""Paths that ask for no key: whether the server lives, the page's files, and images, whose names only those know who
know the images: a browser cannot send a key for an image in a text."""

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CORS_HEADERS = "Authorization, Content-Type, X-Request-Id, X-Stainless-Arch, X-Stainless-Lang, X-Stainless-OS, " + (
    "X-Stainless-Package-Version, X-Stainless-Retry-Count, X-Stainless-Runtime, X-Stainless-Runtime-Version, "
    "X-Stainless-Timeout"
)
"""What a page elsewhere may send, once it is allowed: OpenAI's JavaScript client sends all of these."""


class Guard:
    """ASGI middleware.

    Args:
        app: what answers.
        hosts: under which names.
        keys: for whom.
        origins: of pages elsewhere that may ask.
        metrics: of the server.
    """

    def __init__(self, app: ASGIApp, *, hosts: HostNames, keys: Keys, origins: Iterable[str], metrics: Metrics) -> None:
        self.app = app
        self.hosts = hosts
        self.keys = keys
        self.origins = frozenset(origins)
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        facts: dict[str, Any] = {}
        scope["app"] = self  # so that Starlette's routes raise what they refuse
        scope.setdefault("state", {}).update(facts=facts, request_id=request_id, client=_address(scope))
        status = 0
        own_headers = {**HEADERS, "X-Request-Id": request_id, **self._cors(headers)}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                for name, value in own_headers.items():
                    sent.setdefault(name, value)
            await send(message)

        try:
            try:
                self._admit(scope, headers)
                if scope["method"] == "OPTIONS" and "Access-Control-Allow-Origin" in own_headers:
                    await Response(status_code=204)(scope, receive, send_with_headers)
                else:
                    await self.app(scope, receive, send_with_headers)
            except (ClientGone, ClientDisconnect):
                facts["finish"] = "client"
            except Exception as error:
                refusal = _refusal(error, request_id)
                facts["error"] = type(error).__name__
                if status:
                    raise  # too late to tell; the connection is closed
                await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send_with_headers)
        finally:
            if status >= 400:
                self.metrics.failures.labels(str(status)).inc()
            _log(scope, request_id, status, time.monotonic() - begin, facts)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self.hosts.allow(host):
            raise RequestError(
                421,
                f"The request is for the host {host[:200]!a}, which is none of this server's names. Ask for it by its "
                "address, or start it with --allow-host.",
            )
        if self.keys and scope["method"] != "OPTIONS" and not FREE.fullmatch(scope["path"]):
            name = self.keys.name_of(headers.get("authorization", ""))
            if name is None:
                raise RequestError(
                    401,
                    "The request has no valid API key. Send the header Authorization: Bearer KEY.",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            scope["state"]["client"] = scope["state"]["facts"]["key"] = name

    def _cors(self, headers: Headers) -> dict[str, str]:
        origin = headers.get("origin")
        if origin is None or origin not in self.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": CORS_HEADERS,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "unknown"


def _refusal(error: Exception, request_id: str) -> RequestError:
    if isinstance(error, RequestError):
        log_fault(error, request_id)
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return RequestError(404, "There is nothing at this address. docs/serving.md lists what there is.")
        return RequestError(error.status_code, f"{error.detail}.", headers=error.headers)
    _log_failure(error, request_id)
    return RequestError(500, "The server failed at this request. Its log says where, under the request's id.")


def log_fault(error: RequestError, request_id: str) -> None:
    """Where what is told to a client as a fault of ours happened; what is its own is not logged."""
    if error.status == 500 and error.__cause__ is not None:
        _log_failure(error.__cause__, request_id)


def _log_failure(error: BaseException, request_id: str) -> None:
    """Where a fault of ours happened. Without its message, which may hold what a client wrote."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    LOG.error(json.dumps({"request_id": request_id, "failure": type(error).__name__, "at": places}))


def _log(scope: Scope, request_id: str, status: int, seconds: float, facts: dict[str, Any]) -> None:
    if scope["path"] in ("/health", "/live", "/metrics") and status < 400:
        return
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": request_id,
        "client": scope["state"]["client"],
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(1000 * seconds, 1),
        **facts,
    }
    LOG.info(json.dumps(line))


def origin_of(url: str) -> str:
    """Scheme, host and port of an address, as browsers send it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is no origin; expected https://host or https://host:port.")
    return f"{parts.scheme}://{parts.netloc}"
