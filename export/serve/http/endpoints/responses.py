"""`POST /v1/responses`, and what is kept of it: `GET` and `DELETE /v1/responses/{id}`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.engine.events import Cancelled, Scored
from export.serve.errors import RequestError
from export.serve.http.body import json_of
from export.serve.http.endpoints.generation import begin, data_lines, model_of, read_whole
from export.serve.http.event_stream import EventStream
from export.serve.http.run import Run
from export.serve.http.service import Service
from export.serve.protocol.partial_images import preview_steps
from export.serve.protocol.responses import (
    ResponsesAnswer,
    ResponsesRequest,
    StoredResponse,
    parse_responses,
)
from export.serve.protocol.templates import Turn, lay_out


async def create_response(request: Request, service: Service) -> Response:
    """Continue a conversation."""
    served = service.served
    body = await json_of(request, service)
    model, _ = model_of(body, service)
    settings = service.settings
    asked = parse_responses(body, settings.options, settings.template)
    earlier = [] if asked.previous_response_id is None else _stored(asked.previous_response_id, request, service).turns
    parts = lay_out(asked.all_turns(earlier), asked.options.template)
    options = asked.options
    every = preview_steps(options.generation.num_inference_steps, asked.partial_images)
    id = f"resp_{uuid4().hex}"
    run, (seed,) = await begin(id, parts, replace(options, preview_every=every), request, service)
    answer = ResponsesAnswer(
        id=id,
        model=model,
        created=int(time.time()),
        request=asked,
        seed=seed,
        num_visual_tokens=served.num_visual_tokens,
    )
    events = _events(run, answer, [*earlier, *asked.turns], request, service)
    if asked.stream:
        lines = data_lines(events, run, request, answer.fail)
        return EventStream(run, lines, settings.client_timeout)
    await read_whole(events, run, request)
    return JSONResponse(answer.response)


async def get_response(request: Request, service: Service) -> Response:
    """An earlier answer."""
    return JSONResponse(_stored(request.path_params["id"], request, service).response)


async def delete_response(request: Request, service: Service) -> Response:
    """Forget an earlier answer."""
    id = request.path_params["id"]
    _stored(id, request, service)
    service.responses.remove(id)
    return JSONResponse({"id": id, "object": "response.deleted", "deleted": True})


async def _events(
    run: Run, answer: ResponsesAnswer, turns: Sequence[Turn], request: Request, service: Service
) -> AsyncIterator[dict[str, Any]]:
    for event in answer.opening():
        yield event
    async for _, happened in run.events(whole_previews=True):
        assert not isinstance(happened, Scored), "nothing was to be ranked"
        for event in answer.cancel() if isinstance(happened, Cancelled) else answer.add(happened):
            if "response" in event:  # the last one: kept before the client can ask to go on from it
                _keep(answer, answer.request, turns, request, service)
            yield event


def _keep(
    answer: ResponsesAnswer, asked: ResponsesRequest, turns: Sequence[Turn], request: Request, service: Service
) -> None:
    if asked.store:
        kept = StoredResponse(request.state.client, [*turns, *answer.turns()], answer.response)
        service.responses.put(answer.response["id"], kept, kept.num_bytes)


def _stored(id: str, request: Request, service: Service) -> StoredResponse:
    kept = service.responses.get(id)
    if kept is None or kept.client != request.state.client:
        raise RequestError(
            404,
            f"Previous response with id {id[:100]!a} not found. Responses are kept for {service.settings.keep:g} "
            "seconds, unless store is false; send the conversation itself as input.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return kept
