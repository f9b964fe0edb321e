"""`DELETE /v1/mmfs/requests/{id}` and `GET /v1/mmfs/images/{sha}.png`: what has been asked, and what has been drawn."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.errors import RequestError
from export.serve.http.service import Service

FOR_EVER = "public, max-age=31536000, immutable"


async def cancel(request: Request, service: Service) -> Response:
    """Stop an answer, which keeps what it has; its stream ends."""
    id = request.path_params["id"]
    run = service.runs.get(id)
    if run is None or run.client != request.state.client or run.has_ended:  # one that has ended is sent a moment longer
        raise RequestError(404, f"No answer {id[:100]!a} is under way. Its id is in the first line of its stream.")
    run.cancel("request")
    return JSONResponse({"id": id, "object": "mmfs.request", "cancelled": True})


async def image(request: Request, service: Service) -> Response:
    """An image that was drawn."""
    found = re.fullmatch(r"([0-9a-f]{64})\.png", request.path_params["file"])
    png = service.images.get(found[1]) if found else None
    if png is None:
        raise RequestError(404, f"This image is not kept, or not any more: for {service.settings.keep:g} seconds.")
    return Response(png, media_type="image/png", headers={"Cache-Control": FOR_EVER})
