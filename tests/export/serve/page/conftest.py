"""The page in a browser of the system, asked from a live server with the shipped model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from live_server import LiveServer
from page_documents import Open, file_of

PATIENCE_MS = 10_000.0
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def open_page(browser: Browser, server: LiveServer) -> Iterator[Open]:
    """Open the page in a browser that has never seen it. What it complains about, or asks of others, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(turns: list[dict[str, Any]] | None = None, **options: Any) -> Page:
        mode = options.pop("mode", "auto")
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options.pop("context", {})})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said.text, said.type) else None)
        page.on("request", lambda asked: complaints.append(asked.url) if _is_outside(asked.url, server) else None)
        page.goto(f"http://127.0.0.1:{server.port}/")
        expect(page.locator("#model")).to_have_text("toy")
        if turns is not None:
            page.set_input_files("#json-files", files=[file_of({"turns": turns, "mode": mode, "options": options})])
            expect(page.locator(".notice")).to_contain_text("The document is imported.")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def _is_complaint(text: str, kind: str) -> bool:
    return kind in ("error", "warning") and not text.startswith("Failed to load resource")  # of tests with refusals


def _is_outside(url: str, server: LiveServer) -> bool:
    return not url.startswith((f"http://127.0.0.1:{server.port}/", "data:", "blob:"))
