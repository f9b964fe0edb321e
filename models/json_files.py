"""JSON files: read with an error that names the file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). Fetch or make it again.") from error


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a person can read it: one value a line, in UTF-8.

    Raises:
        TypeError: `content` holds something that JSON has no form for; nothing is written.
    """
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
