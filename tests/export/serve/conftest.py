"""The shipped model behind a server, once for all tests of a worker."""

from collections.abc import Iterator

import pytest
from PIL import Image

from export.serve.engine.batching import BatchingEngine
from export.serve.http.service import Service
from export.serve.settings import Settings
from image_urls import data_url as data_url_of
from image_urls import noise
from live_server import LiveServer, live
from models import MMInterleaved
from server_process import TOY


@pytest.fixture(scope="session")
def toy() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY)


@pytest.fixture(scope="session")
def server(toy: MMInterleaved) -> Iterator[LiveServer]:
    settings = Settings(name="toy")
    with live(Service(settings), toy, BatchingEngine(toy, settings.engine)) as running:
        yield running


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Something to look at."""
    return noise(3)


@pytest.fixture(scope="session")
def data_url(picture: Image.Image) -> str:
    return data_url_of(picture)
