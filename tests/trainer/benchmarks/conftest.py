from pathlib import Path

import pytest

from models import MMInterleaved
from trainer.benchmarks.small_folders import write_all

SHIPPED = Path(__file__).parents[3] / "trainer/weights/toy"
NUM = 4
"""Samples of each benchmark."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark's files in its official form; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    write_all(folder, NUM)
    return folder


@pytest.fixture(scope="session")
def shipped_dir() -> Path:
    """The shipped model of the emoji world."""
    return SHIPPED


@pytest.fixture(scope="session")
def shipped() -> MMInterleaved:
    """The same, read."""
    return MMInterleaved.from_pretrained(SHIPPED, device="cpu")
