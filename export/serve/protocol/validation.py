"""What pydantic does not like of a request, as a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from export.serve.errors import RequestError, invalid
from models.json_files import cut, shortened

Form = TypeVar("Form", bound=BaseModel)


def validated(form: type[Form], value: Any, within: Sequence[str | int] = ()) -> Form:
    """A value of a request in the form that it has to have.

    Args:
        form: of pydantic.
        value: as JSON has it.
        within: the path of the value in the request.

    Raises:
        RequestError: it has another form; the message says where.
    """
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise of_validation(error, within) from error


def place(path: Sequence[str | int]) -> str:
    """The path of a value: `messages[0].content`."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path).removeprefix(".")


def of_validation(error: ValidationError, within: Sequence[str | int] = ()) -> RequestError:
    """What pydantic does not like, as a sentence: of the forms that a value may have, by the one that came furthest."""
    worst = max(error.errors(include_url=False, include_context=False), key=lambda one: len(one["loc"]))
    where = place([*within, *_without_forms(worst["loc"])])
    if worst["type"] == "missing":
        return invalid(f"{where or 'the body'} is missing.", where or None)
    expected = re.sub(r"^(Input|Value) ", "", worst["msg"]).removeprefix("should be ").rstrip(".")
    return invalid(f"{where or 'The body'} is {_shown(worst['input'])}; expected: {expected}.", where or None)


def _without_forms(path: Sequence[str | int]) -> list[str | int]:
    """The path of a value without what pydantic adds to say which form it took it for: a type behind a name, or the
    value of `type` behind a number."""
    kept: list[str | int] = []
    for before, one in zip((None, *path), path, strict=False):
        is_tag = isinstance(before, int) and one in TAGS
        if isinstance(one, int) or not (is_tag or one in FORMS or not one.isidentifier()):
            kept.append(one)
    return kept


TAGS = frozenset({"text", "input_text", "output_text", "image_url", "input_image"})
"""Values of `type` by which pydantic chooses the form of a part."""

FORMS = frozenset({"str", "int", "float", "bool", "ImageURL", "ToolChoice"})
"""Types that stand in the path of an error of a union."""


def _shown(value: Any) -> str:
    try:
        return cut(json.dumps(value))
    except (TypeError, ValueError):
        return shortened(value)
