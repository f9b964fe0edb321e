from collections.abc import Callable
from typing import Any

import pytest

from official_scores import read_official


@pytest.fixture(scope="session")
def official() -> Callable[[str], Any]:
    """What the official scorers returned: the content of a file of tests/data/evaluation, by its name."""
    return read_official
