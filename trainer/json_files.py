"""Plain data in files that are there as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write it so that a person can read it: one value a line, in UTF-8."""
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
