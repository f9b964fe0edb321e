"""A request's body, refused while it comes where it is too large."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from export.serve.errors import RequestError, invalid
from export.serve.http.service import Service
from export.serve.protocol.json_body import parse_json_object

LARGE_BYTES = 1 << 16
"""A larger body is parsed in another thread."""


async def json_of(request: Request, service: Service) -> dict[str, Any]:
    """The JSON object that a request holds.

    Raises:
        RequestError: 429 while the queue is full, 415 for another type, 413 for more bytes than
            `Settings.max_body_bytes`, 408 for a client that stopped sending, 400 for what is no such object.
    """
    service.check_room()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise invalid(f"The body is of the type {media_type[:80]!a}; expected application/json.", status=415)
    body = await _bytes_of(request, service)
    limits = service.settings.json
    if len(body) <= LARGE_BYTES:
        return parse_json_object(body, limits)
    return await run_in_threadpool(parse_json_object, body, limits)


async def _bytes_of(request: Request, service: Service) -> bytes:
    most = service.settings.max_body_bytes
    too_large = invalid(f"The body has more than {most:,} bytes. Send fewer or smaller images.", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 20 or int(declared) > most):
        raise too_large
    body = bytearray()
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(service.settings.client_timeout):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise RequestError(408, "The body did not come. Send the request again.") from error
        if chunk is None:
            return bytes(body)
        body += chunk
        if len(body) > most:
            raise too_large
