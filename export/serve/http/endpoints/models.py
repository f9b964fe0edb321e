"""`GET /v1/models`, `/health`, `/live` and `/metrics`: what is here, and how it is."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.serve.http.endpoints.generation import MARKDOWN, unknown_model
from export.serve.http.service import Service
from export.serve.protocol.props import props_of


async def list_models(request: Request, service: Service) -> Response:
    """The model, under each of its names."""
    return JSONResponse({"object": "list", "data": [_model(name, service) for name in _names(service)]})


async def get_model(request: Request, service: Service) -> Response:
    """One of them."""
    name = request.path_params["name"]
    if name not in _names(service):
        raise unknown_model(name, service)
    return JSONResponse(_model(name, service))


async def health(request: Request, service: Service) -> Response:
    """Whether requests are answered: 503 while the model is being loaded, and while the server stops."""
    _ = service.served
    return JSONResponse({"status": "ok"})


async def live(request: Request, service: Service) -> Response:
    """Whether the process is there."""
    return JSONResponse({"status": "ok"})


async def metrics(request: Request, service: Service) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def props(request: Request, service: Service) -> Response:
    """What the model and the server can do."""
    served = service.served
    return JSONResponse(props_of(service.settings, served.config, tells_locations=served.tells_locations))


def _names(service: Service) -> list[str]:
    return [service.settings.name, service.settings.name + MARKDOWN]


def _model(name: str, service: Service) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "mmfs"}
