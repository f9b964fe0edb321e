"""Files that are written aside first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(file: Path, text: str) -> None:
    """A file that is there as a whole or not at all."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """The same for plain data, readable: one value a line."""
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
