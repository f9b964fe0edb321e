"""A model to make a demo of, and the content of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_fakes import fake_demo
from models import MMInterleaved
from trainer.demo.content import Demo


@pytest.fixture(scope="session")
def model(untrained: Path) -> MMInterleaved:
    return MMInterleaved.from_pretrained(untrained)


@pytest.fixture(scope="session")
def demo() -> Demo:
    return fake_demo(num_documents=2)
