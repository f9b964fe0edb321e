"""`GET /v1/mmfs/sampling_locations/...`: where MMFS sampled the images for an answer; the JSON is explained in
`export/serve/protocol/sampling_locations.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.errors import RequestError, invalid
from export.serve.http.service import Service
from export.serve.protocol.sampling_locations import answer_json, query_json
from models.generation.query_locations import QueryLocations
from models.generation.sampling_locations import SamplingLocations
from models.json_files import shortened


async def answer(request: Request, service: Service) -> Response:
    """What can be asked for of an answer."""
    locations = _recorded(request, service)
    return JSONResponse(await run_in_threadpool(answer_json, request.path_params["id"], locations))


async def token(request: Request, service: Service) -> Response:
    """Of a written token."""
    index = request.path_params["index"]
    return await _query(request, service, lambda locations: locations.of_token(index))


async def text(request: Request, service: Service) -> Response:
    """Of the tokens of a word."""
    start, end = (_whole(request, name) for name in ("start", "end"))
    return await _query(request, service, lambda locations: locations.of_text(start, end))


async def pixel(request: Request, service: Service) -> Response:
    """Of a place in a drawn image."""
    index = request.path_params["index"]
    x, y = (_share(request, name) for name in ("x", "y"))
    step = _whole(request, "step") if "step" in request.query_params else -1
    return await _query(request, service, lambda locations: locations.of_pixel(index, x, y, step))


async def _query(request: Request, service: Service, find: Callable[[SamplingLocations], QueryLocations]) -> Response:
    locations = _recorded(request, service)

    def found() -> dict[str, Any]:
        return query_json(find(locations))

    try:
        return JSONResponse(await run_in_threadpool(found))
    except ValueError as error:
        raise RequestError(404, str(error)) from error


def _recorded(request: Request, service: Service) -> SamplingLocations:
    id = request.path_params["id"]
    kept = service.locations.get(id)
    if kept is None or kept.client != request.state.client:
        raise RequestError(
            404,
            f"No sampling locations of an answer {id[:100]!a} are kept. They are recorded for requests with "
            f"mmfs.sampling_locations, and kept for {service.settings.keep:g} seconds, the newest of them while there "
            "is room.",
        )
    return kept.locations


def _whole(request: Request, name: str) -> int:
    given = request.query_params.get(name, "")
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise invalid(f"{name} is {shortened(given)}; expected a whole number.", name)
    return int(given)


def _share(request: Request, name: str) -> float:
    given = request.query_params.get(name, "")
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise invalid(f"{name} is {shortened(given)}; expected a share of the image's side, from 0 to 1.", name)
    return share
