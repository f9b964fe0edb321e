"""How long something still takes, for a progress line."""

from __future__ import annotations


def time_left(seconds: int) -> str:
    """`5:32 left`, `1:02:03 left`."""
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
