"""The shipped model behind a server, once for all tests of a worker."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.serve.engine.batching import BatchingEngine
from export.serve.http.service import Service
from export.serve.settings import Settings
from live_server import LiveServer, live
from models import MMInterleaved

TOY = Path(__file__).parents[3] / "trainer/weights/toy"
PROMPT = "a snail left of a rocket on a green background"


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
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (48, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
