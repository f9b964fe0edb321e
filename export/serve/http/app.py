"""The routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from export.serve.http.endpoints import (
    chat,
    images,
    models,
    page,
    requests,
    responses,
    sampling_locations,
    score,
)
from export.serve.http.guard import Guard
from export.serve.http.hosts import HostNames
from export.serve.http.keys import Keys
from export.serve.http.service import Service

Endpoint = Callable[[Request, Service], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("POST", "/v1/responses", responses.create_response),
    ("GET", "/v1/responses/{id}", responses.get_response),
    ("DELETE", "/v1/responses/{id}", responses.delete_response),
    ("POST", "/v1/images/generations", images.generate_images),
    ("POST", "/v1/mmfs/score", score.score),
    ("GET", "/v1/mmfs/props", models.props),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{name}", models.get_model),
    ("GET", "/v1/mmfs/sampling_locations/{id}", sampling_locations.answer),
    ("GET", "/v1/mmfs/sampling_locations/{id}/tokens/{index:int}", sampling_locations.token),
    ("GET", "/v1/mmfs/sampling_locations/{id}/text", sampling_locations.text),
    ("GET", "/v1/mmfs/sampling_locations/{id}/images/{index:int}", sampling_locations.pixel),
    ("DELETE", "/v1/mmfs/requests/{id}", requests.cancel),
    ("GET", "/v1/mmfs/images/{file}", requests.image),
    ("GET", "/health", models.health),
    ("GET", "/live", models.live),
    ("GET", "/metrics", models.metrics),
    ("GET", "/", page.page),
    ("GET", "/page/{name:path}", page.page),
)


def make_app(service: Service, keys: Keys) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        service: what its requests share.
        keys: who may ask; none: everybody.
    """
    routes = [Route(path, _endpoint(endpoint, service), methods=[method]) for method, path, endpoint in ROUTES]
    settings = service.settings
    return Guard(
        Router(routes),
        hosts=HostNames(settings.host, settings.public_url, settings.allowed_hosts),
        keys=keys,
        origins=settings.allowed_origins,
        metrics=service.metrics,
    )


def _endpoint(endpoint: Endpoint, service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await endpoint(request, service)

    return answer
