"""JSON files: read with an error that names the file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically
from models.object_path import Place


def read_json(file: Place) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or nested too deeply to be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). Fetch or make it again.") from error
    except RecursionError as error:
        raise ValueError(f"{file} is damaged (lists within lists without end). Fetch or make it again.") from error


def read_json_object(file: Place) -> dict[str, Any]:
    """The values of a JSON file by name.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or holds something else than values by name.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds {shortened(content)}; expected values by name, in braces. Fetch or make it again."
        )
    return content


def shortened(value: Any, most: int = 80) -> str:
    """A foreign value for an error message: escaped, and cut where it is long."""
    return cut(repr(value), most)


def cut(text: str, most: int = 80) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a person can read it: one value a line, in UTF-8.

    Raises:
        TypeError: `content` holds something that JSON has no form for; nothing is written.
    """
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
