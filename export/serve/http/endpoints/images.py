"""`POST /v1/images/generations`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.engine.events import Cancelled, Scored
from export.serve.errors import RequestError
from export.serve.http.body import json_of
from export.serve.http.endpoints.generation import begin, data_lines, model_of, public_url, read_whole
from export.serve.http.event_stream import EventStream
from export.serve.http.run import Run, was_cancelled
from export.serve.http.service import Service
from export.serve.protocol.images import ImagesAnswer, parse_images
from export.serve.protocol.partial_images import preview_steps


async def generate_images(request: Request, service: Service) -> Response:
    """Draw a text."""
    served = service.served
    body = await json_of(request, service)
    model_of(body, service)
    settings = service.settings
    asked = parse_images(body, settings.options, served.config.drawn_image_size)
    steps = asked.options.generation.num_inference_steps
    options = replace(asked.options, preview_every=preview_steps(steps, asked.partial_images if asked.stream else 0))
    run, seeds = await begin(f"img_{uuid4().hex}", [asked.prompt], options, request, service)
    answer = ImagesAnswer(
        created=int(time.time()),
        request=asked,
        seeds=seeds,
        public_url=public_url(request, service),
        num_visual_tokens=served.num_visual_tokens,
    )
    if asked.stream:
        lines = data_lines(_events(run, answer), run, request, _error_event)
        return EventStream(run, lines, settings.client_timeout, {"X-Mmfs-Request": run.id})
    await read_whole(_events(run, answer), run, request)
    return JSONResponse(answer.whole())


async def _events(run: Run, answer: ImagesAnswer) -> AsyncIterator[dict[str, Any]]:
    async for number, happened in run.events(whole_previews=True):
        assert not isinstance(happened, Scored), "nothing was to be ranked"
        if isinstance(happened, Cancelled):
            raise was_cancelled()
        for event in answer.add(number, happened):
            yield event


def _error_event(error: RequestError) -> list[dict[str, Any]]:
    return [{"type": "error", **error.body}]
