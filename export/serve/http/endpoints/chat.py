"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.engine.events import Cancelled, Scored
from export.serve.http.body import json_of
from export.serve.http.endpoints.generation import begin, data_lines, model_of, public_url, read_whole
from export.serve.http.event_stream import EventStream
from export.serve.http.run import Run
from export.serve.http.service import Service
from export.serve.protocol.chat import ChatAnswer, parse_chat


async def chat_completions(request: Request, service: Service) -> Response:
    """Continue a conversation."""
    served = service.served
    body = await json_of(request, service)
    model, image_format = model_of(body, service)
    settings = service.settings
    asked = parse_chat(body, settings.options, image_format=image_format, template=settings.template)
    id = f"chatcmpl-{uuid4().hex}"
    run, seeds = await begin(id, asked.parts, asked.options, request, service)
    answer = ChatAnswer(
        id=id,
        model=model,
        created=int(time.time()),
        request=asked,
        seeds=seeds,
        public_url=public_url(request, service),
        num_visual_tokens=served.num_visual_tokens,
    )
    if asked.stream:
        return EventStream(run, _lines(run, answer, request), settings.client_timeout)
    await read_whole(_chunks(run, answer), run, request)
    return JSONResponse(answer.whole())


async def _lines(run: Run, answer: ChatAnswer, request: Request) -> AsyncIterator[bytes]:
    async for line in data_lines(_chunks(run, answer), run, request):
        yield line
    if run.has_ended:
        yield b"data: [DONE]\n\n"


async def _chunks(run: Run, answer: ChatAnswer) -> AsyncIterator[dict[str, Any]]:
    for chunk in answer.opening():
        yield chunk
    async for number, event in run.events():
        assert not isinstance(event, Scored), "nothing was to be ranked"
        for chunk in answer.cancel(number) if isinstance(event, Cancelled) else answer.add(number, event):
            yield chunk
    for chunk in answer.closing():
        yield chunk
