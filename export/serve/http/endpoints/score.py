"""`POST /v1/mmfs/score`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.engine.events import Scored
from export.serve.engine.interface import ScoreRequest
from export.serve.http.body import json_of
from export.serve.http.endpoints.generation import document_of, model_of, note
from export.serve.http.event_stream import unless_gone
from export.serve.http.run import Run, was_cancelled
from export.serve.http.service import Service
from export.serve.protocol.score import parse_score, score_answer


async def score(request: Request, service: Service) -> Response:
    """Rank texts as continuations of a conversation."""
    body = await json_of(request, service)
    model, _ = model_of(body, service)
    asked = parse_score(body, service.settings.options, service.settings.template)
    document = await document_of(asked.parts, asked.options.task, request, service)
    id = f"score_{uuid4().hex}"
    run = await service.begin(
        id,
        [
            ScoreRequest(
                document=document,
                candidates=asked.candidates,
                rank_by=asked.rank_by,
                asker=service.asker(request.state.client),
                id=id,
            )
        ],
    )
    answer = await unless_gone(run, request.receive, _whole(run, model))
    note(request, run)
    return JSONResponse(answer)


async def _whole(run: Run, model: str) -> dict[str, Any]:
    async for _, event in run.events():
        if isinstance(event, Scored):
            return score_answer(run.id, model, event.scores, event.timings)
    raise was_cancelled()
