"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """`1 step`, `2 steps`, `1,000 steps`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
