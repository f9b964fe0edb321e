"""What every test gets: a fixed seed, a cache of compiled kernels that is no user's, a reason to skip what needs a GPU,
and a browser of the system, if it asks for one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from alignment import begin_anywhere

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Before anything imports onnxruntime: its wheels would begin a thread that asks the network, and share a database.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--odd-alignment",
        action="store_true",
        help="let tensors begin at any multiple of 8 bytes: results that are made twice then differ in their last bits",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--odd-alignment"):
        with tempfile.TemporaryDirectory() as folder:
            begin_anywhere(Path(folder))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all workers of this run: what is in a user's may be of another time, or his disk may be full."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for the tests of a file, not of all files: while Playwright's synchronous interface is open, its event loop
    counts as running in this thread, and a test that calls `asyncio.run` would fail."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("There is no Chromium here to open the page with; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--odd-alignment"):
        for item in items:
            if item.get_closest_marker("own_allocator"):
                item.add_marker(pytest.mark.skip(reason="it needs tensors that all begin alike"))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
