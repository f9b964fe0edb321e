"""What jsonargparse says about a wrong option, in the words of the other messages."""

from __future__ import annotations

import ast
import re
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

KEY = re.compile(r'Parser key "([^"]+)"')
UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
EXPECTED = re.compile(r"Expected an? (?:<class '(?P<kind>\w+)'>|typing\.Literal\[(?P<choices>[^\]]*)\])")
VALUE = re.compile(r"(?:Got|Given) value: (.*)")
PART = re.compile(r"NestedArg\(key='(?P<key>[^']*)', val='?(?P<value>.*?)'?\)")
CONTAINERS = {"list": "a list", "tuple": "a list", "dict": "settings by name"}
KINDS = {**CONTAINERS, "int": "an int", "bool": "true or false", "NoneType": "settings by name, or null"}
"""What the types are called, besides `a float` and its like. What is no settings may still be null."""


def sentence_of(error: Exception, settings: type) -> str:
    """One sentence: which setting is what, and what was expected.

    What may be null is told as a tree, with a level for each part of the name, and its first leaf is what is wrong. A
    message of another form is left as it is, in one line.

    Args:
        error: from the parser.
        settings: the dataclass that the options are of.
    """
    said = str(error)
    keys = list(KEY.finditer(said))
    name = ".".join(key[1] for key in keys)
    leaf = said[keys[-1].end() :] if keys else ""
    if unknown := UNKNOWN.search(leaf):
        return f"{name} has no option '{unknown[1]}'."
    expected, value = EXPECTED.search(leaf), VALUE.search(leaf)
    if expected is None or value is None:
        return " ".join(said.split()).removesuffix(".") + "."
    if part := PART.match(value[1]):
        return f"{name.partition('.')[0]}.{part['key']} is {_shown(part['value'])}, which has no place in the settings."
    kind = expected["kind"]
    wanted = KINDS.get(kind, f"a {kind}") if kind else f"one of {expected['choices'].replace(chr(39), '')}"
    may_be_null = kind != "NoneType" and len(keys) == 1 and "Expected a <class 'NoneType'>" in leaf
    verb = "holds" if kind not in CONTAINERS and _is_container(settings, name) else "is"
    return f"{name} {verb} {_shown(value[1])}; expected {wanted}{', or null' if may_be_null else ''}."


def _shown(value: str) -> str:
    """Words in quotes, numbers and lists without."""
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return f"'{value}'"
    return value


def _is_container(settings: Any, name: str) -> bool:
    """Whether a setting is a list or a dictionary of values."""
    kind = settings
    for part in name.split("."):
        if not is_dataclass(kind):
            return False
        kind = get_type_hints(kind).get(part)
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
    return get_origin(kind) in (list, tuple, dict)
