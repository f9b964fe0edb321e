"""A body as JSON: bounded in depth and in the number of its values before it is parsed, strict about what JSON is."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from export.serve.errors import invalid

MAX_DIGITS = 400
"""Of one number. The largest float64 has 309."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
"""A text, or what JSON's structure is made of."""


@dataclass(frozen=True)
class JSONLimits:
    """What a body may hold."""

    max_depth: int = 32
    """Lists and objects within each other."""

    max_values: int = 100_000


def parse_json_object(body: bytes, limits: JSONLimits) -> dict[str, Any]:
    """A body that is an object.

    Raises:
        RequestError: it is not, or holds what JSON does not allow (a name twice, NaN, bytes that are no UTF-8), or more
            than the limits.
    """
    _check_structure(body, limits)
    try:
        content = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_without_repetition,
            parse_int=_whole,
            parse_float=_real,
            parse_constant=_refused,
        )
    except UnicodeDecodeError as error:
        raise invalid(f"The body is no UTF-8: byte {error.start} is {body[error.start]:#04x}.") from error
    except ValueError as error:
        raise invalid(f"The body is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise invalid(f"The body is a JSON {_kind(content)}; expected an object in braces.")
    return content


def _check_structure(body: bytes, limits: JSONLimits) -> None:
    depth = num_values = 0
    for found in _STRUCTURE.finditer(body):
        first = body[found.start()]
        if first in b"[{":
            depth += 1
            if depth > limits.max_depth:
                raise invalid(f"The body has lists or objects nested deeper than {limits.max_depth}. Flatten it.")
        elif first in b"]}":
            depth -= 1
        elif first == ord(","):
            num_values += 1
            if num_values >= limits.max_values:
                raise invalid(f"The body has more than {limits.max_values} values. Send fewer parts.")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice!a} twice; expected every name once")
    return content


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits; expected at most {MAX_DIGITS}")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]}... is no finite number" if len(digits) > 20 else f"{digits} is too large")
    return number


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _kind(content: Any) -> str:
    kinds = {list: "list", str: "text", bool: "boolean", type(None): "null"}
    return kinds.get(type(content), "number")
