"""`GET /` and the files of the page."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from export.serve.errors import RequestError
from export.serve.http.service import Service

FOLDER = Path(__file__).parents[2] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}


FILES = {file.relative_to(FOLDER).as_posix(): file for file in sorted(FOLDER.rglob("*")) if file.suffix in TYPES}
"""What is sent: files that were there at the start, so that no name in a request becomes a path."""


async def page(request: Request, service: Service) -> Response:
    """The page itself, or one of its files."""
    name = request.path_params.get("name", "index.html")
    if name not in FILES:
        raise RequestError(404, f"The page has no file {name[:100]!a}.")
    file = FILES[name]
    return FileResponse(file, headers={"Content-Type": TYPES[file.suffix], "Cache-Control": "no-cache"})
