"""What the official scorers returned: tests/data/evaluation."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data/evaluation"


def read_official(name: str) -> Any:
    """The content of a file, by its name."""
    with lzma.open(DATA / f"{name}.json.xz", "rt", encoding="utf-8") as stream:
        return json.load(stream)
