"""How much an engine does at once. No other module is imported, so that `--help` can quote it quickly."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How much is done at once."""

    max_running: int = 16
    """Requests that are computed together."""

    max_queued: int = 64
    """Requests that wait for a place."""

    queue_timeout: float = 60.0
    """Seconds that one waits at most."""

    cache_bytes: int = 1 << 30
    """Of documents that have been read and wait for their next turn."""

    memory_bytes: int | None = None
    """Of the documents that are computed together, as forecast from their prompts and from what they may write. None:
    it is not bounded."""

    read_budget: int = 256
    """Tokens of prompts that are read between two tokens of those that write."""

    tokens_per_step: int = 4
    """Tokens of each document that writes between two denoising steps of those that draw."""
