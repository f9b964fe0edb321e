"""API keys: who may ask."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from pathlib import Path

KEY = re.compile(r"[!-~]{8,512}")
"""Printable ASCII without spaces."""


class Keys:
    """The keys that a server takes, each with a name for the log.

    Args:
        keys: name to key; none: everybody may ask.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {name: key.encode("ascii") for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def name_of(self, authorization: str) -> str | None:
        """Whose key the header `Authorization` has; None: nobody's.

        Every key is compared, each in constant time, so that the time tells nothing of any.
        """
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode("utf-8", "replace")
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(sent, key) and scheme.lower() == "bearer":
                found = name
        return found


def read_keys(file: Path) -> dict[str, str]:
    """A file with a key on each line, or a name, a space and a key. Empty lines and those that begin with # are passed
    over.

    Raises:
        ValueError: a line is neither, a name stands twice, or there is no key.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = (f"key {number}", words[0]) if len(words) == 1 else (words[0], words[1])
        if len(words) > 2 or name in keys:
            raise ValueError(f"{file}, line {number}: expected a key, or a new name, a space and a key.")
        keys[name] = checked_key(key, f"{file}, line {number}")
    if not keys:
        raise ValueError(f"{file} holds no key. Write one on a line of its own, of at least 8 characters.")
    return keys


def checked_key(key: str, where: str) -> str:
    """A key that can be sent in a header.

    Raises:
        ValueError: it cannot, or is too short.
    """
    if not KEY.fullmatch(key):
        raise ValueError(f"{where}: a key has 8 to 512 printable ASCII characters and no space. Make another one.")
    return key
