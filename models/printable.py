"""Foreign text in messages: names of files, words of errors."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with what a terminal would obey or cannot show (control characters, bytes that are no UTF-8) spelled
    out as in Python; on one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
