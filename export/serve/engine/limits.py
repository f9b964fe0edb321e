"""How much an engine does at once. No other module is imported, so that `--help` can quote it quickly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How much is done at once."""

    max_running: int = 16
    """Requests that are computed together."""

    max_queued: int = 64
    """Requests that wait for a place."""

    queue_timeout: float = 60.0
    """Seconds that one waits at most."""
