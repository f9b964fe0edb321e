"""JSON files of data sets, with errors that name the file and the entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trainer.errors import UsageError

MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError)
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        UsageError: it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} is not there.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error


def read_json_lines(path: Path) -> list[Any]:
    """What each line of a file holds; empty lines are passed over.

    Raises:
        UsageError: it is not there, or a line is no JSON.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}, line {number}: this is no JSON: {error}") from error
    return found


def each(path: Path, entries: Iterable[Any], read: Callable[[Any], T]) -> list[T]:
    """`read` of every entry.

    Raises:
        UsageError: an entry has another form than expected; its number is named.
    """
    found = []
    for number, entry in enumerate(entries):
        try:
            found.append(read(entry))
        except UsageError:
            raise
        except MALFORMED as error:
            raise UsageError(f"{path}, entry {number}: {explained(error)}") from error
    return found


def entries_of(path: Path, content: Any, *keys: str) -> list[Any]:
    """The list under some keys of a file's content.

    Raises:
        UsageError: there is none.
    """
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            raise UsageError(f"{path} has no {'.'.join(keys)!r}; is it the official file?")
        content = content[key]
    if not isinstance(content, list):
        raise UsageError(f"{path}: {'.'.join(keys) or 'its content'} is a {type(content).__name__}; expected a list.")
    return content


def explained(error: Exception) -> str:
    """What is wrong with an entry; Python's lookups say only what they looked for."""
    if isinstance(error, KeyError):
        return f"it has no {error}."
    if isinstance(error, TypeError | AttributeError | IndexError):
        return "something in it is of another type than the official file has."
    return str(error)


def whole_number(value: Any) -> int:
    """An id that has to be a whole number; texts of digits count.

    Raises:
        ValueError: it is none.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not str(value).isascii()
        or not str(value).isdigit()
    ):
        raise ValueError(f"an id is {value!r:.40}; expected a whole number.")
    return int(value)


def text(value: Any) -> str:
    """A text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} stands where a text should be.")
    return value


def without_doubles(path: Path, ids: Iterable[str]) -> None:
    """Check that every id stands once.

    Raises:
        UsageError: one stands twice.
    """
    seen = set()
    for one in ids:
        if one in seen:
            raise UsageError(f"{path}: id {one} stands twice; expected every sample once.")
        seen.add(one)
