"""Documents for the page of `export.serve`, and what tests do with a page that is open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route

Open = Callable[..., Page]
"""Opens the page with the turns of a document, options of it, and `context` for the browser."""


def file_of(*documents: dict[str, Any]) -> dict[str, Any]:
    """A file to be imported."""
    content = {"format": "mmfs-documents", "version": 1, "documents": documents}
    return {"name": "given.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def image(url: str, alt: str = "") -> dict[str, Any]:
    return {"type": "image", "url": url, "alt": alt}


def yours(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "versions": [{"parts": parts, "made": None}]}


def models(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "versions": [{"parts": parts, "made": None}]}


def parts_of(page: Page, turn: int) -> list[str]:
    """What stands in a turn, from 0: texts, and "[alt]" for images."""
    return page.evaluate(
        """turn => document.querySelectorAll(".text")[turn].editor.parts()
            .map(part => part.type === "text" ? part.text : `[${part.alt}]`)""",
        turn,
    )


def answer_with(page: Page, *deltas: dict[str, Any], end: str = "stop", newline: str = "\n") -> None:
    """Let the server's place be taken by one that streams these pieces, and then a finish reason, if any."""
    chunks = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in ({"content": ""}, *deltas)
    ]
    if end:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
    lines = [f"data: {json.dumps({'id': 'chatcmpl-0', **chunk})}{newline * 2}" for chunk in chunks]
    body = f": ping{newline * 2}".join(lines) + (f"data: [DONE]{newline * 2}" if end else "")

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", answer)


def downloaded(page: Page, click: str) -> Path:
    """What is saved by a click in the menu."""
    page.click("#open-menu")
    with page.expect_download() as download:
        page.click(click)
    return Path(download.value.path())
