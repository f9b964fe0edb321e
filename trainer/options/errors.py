"""Which of the settings that somebody gave is wrong, in one sentence, after the parser has refused them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]

from trainer.errors import UsageError

KINDS = {int: "an int", float: "a float", bool: "true or false", str: "a text"}
"""What the types of single values are called."""


def sentence_of(error: Exception, arguments: Sequence[str], settings: type) -> str:
    """One sentence: which setting is what, and what was expected.

    Where every given setting fits its type, a setting's own check has failed, whose sentence is told, or something else
    about the command line is wrong, where the parser's message stands in one line.

    Args:
        error: what the parser raised.
        arguments: the command line, without the recipe's name.
        settings: the dataclass that the options are of.
    """
    for name, value in given_settings(arguments, settings):
        if (problem := problem_of(name, value, settings)) is not None:
            return problem
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UsageError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()).removesuffix(".") + "."


def given_settings(arguments: Sequence[str], settings: type) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each setting in the YAML files of a command line, then in its options.

    Options that are no settings, such as --resume, and files that cannot be read are left to the parser.
    """
    files: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for number, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name, has_value, value = argument[2:].partition("=")
        if not has_value:
            value = next(iter(arguments[number + 1 :]), "")
        (files if name == "config" else options).append((name, value))
    for _, file in files:
        content = _yaml_of_file(Path(file))
        if isinstance(content, Mapping):
            yield from ((str(name), value) for name, value in content.items())
    known = {field.name for field in fields(settings)}
    yield from ((name, _yaml(value)) for name, value in options if name.partition(".")[0] in known)


def problem_of(name: str, value: Any, settings: Any) -> str | None:
    """Why a value is not one of the setting of that dotted name; None if it may be."""
    kind, walked = settings, ""
    for part in name.split("."):
        inner = _without_none(kind)
        if is_dataclass(inner):
            hints = get_type_hints(inner)
            if part not in hints:
                return _unknown(walked, part)
            kind = hints[part]
        elif get_origin(inner) is dict:
            kind = get_args(inner)[1]
        else:
            return None  # free-form, or an index that the parser knows better
        walked = f"{walked}.{part}" if walked else part
    return _problem_of_type(name, value, kind)


def _problem_of_type(name: str, value: Any, kind: Any) -> str | None:
    """The same for a value of a known type, and for all that is in it."""
    if kind is Any or (value is None and NoneType in get_args(kind)):
        return None
    inner = _without_none(kind)
    origin, parts = get_origin(inner), get_args(inner)
    expected = _described(inner) + (", or null" if NoneType in get_args(kind) else "")
    wrong = f"{name} is {value!r}; expected {expected}."
    if is_dataclass(inner) or origin is dict:
        if not isinstance(value, Mapping):
            return wrong
        hints = get_type_hints(inner) if is_dataclass(inner) else dict.fromkeys(value, parts[1])
        if unknown := [key for key in value if key not in hints]:
            return _unknown(name, unknown[0])
        problems = (_problem_of_type(f"{name}.{key}", one, hints[key]) for key, one in value.items())
        return next((problem for problem in problems if problem is not None), None)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return wrong
        strange = [one for one in value if _problem_of_type(name, one, parts[0]) is not None]
        return f"{name} holds {strange[0]!r}; expected {_described(parts[0])}." if strange else None
    if origin is Literal:
        return None if value in parts else wrong
    return None if inner not in KINDS or _is_a(value, inner) else wrong


def _is_a(value: Any, kind: type) -> bool:
    """Whether the parser takes a value of a YAML file or an option for one of a type."""
    if kind is str:
        return not isinstance(value, Mapping | list)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int)
    try:
        float(value)  # YAML takes 1e-2 for a text
    except (TypeError, ValueError):
        return False
    return True


def _described(kind: Any) -> str:
    """What values of a type are called."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (list, tuple):
        return "a list"
    return KINDS.get(kind, "settings by name")


def _unknown(group: str, name: str) -> str:
    return f"{group} has no option '{name}'." if group else f"There is no option '{name}'."


def _without_none(kind: Any) -> Any:
    """X of `X | None`, and any other type as it is."""
    if get_origin(kind) in (Union, UnionType):
        others = [part for part in get_args(kind) if part is not NoneType]
        return others[0] if len(others) == 1 else Any
    return kind


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _yaml_of_file(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
