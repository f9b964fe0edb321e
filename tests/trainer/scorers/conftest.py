import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "data/evaluation"


@pytest.fixture(scope="session")
def official() -> Callable[[str], Any]:
    """What the official scorers returned: the content of a file of tests/data/evaluation, by its name."""

    def read(name: str) -> Any:
        with lzma.open(DATA / f"{name}.json.xz", "rt", encoding="utf-8") as stream:
            return json.load(stream)

    return read
