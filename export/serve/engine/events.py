"""What happens to a request, as the engine tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from models.generation.generated import Finished, Preview, Progress
from models.generation.scoring import Score

CancelReason = Literal["client", "request", "timeout", "slow", "stopping"]
"""Why a request was cancelled: its client went away, or asked for it; it took too long; its client read too slowly; the
server stops."""


@dataclass(frozen=True)
class Timings:
    """Seconds that a request spent waiting in the queue, reading its prompt, writing text and drawing images."""

    queued: float = 0.0
    reading: float = 0.0
    writing: float = 0.0
    drawing: float = 0.0


@dataclass(frozen=True)
class Completed:
    """A document is complete."""

    finished: Finished
    num_prompt_images: int
    """Images that were read, without those that `finished.num_cut` left out."""

    num_new_images: int
    timings: Timings


@dataclass(frozen=True)
class Scored:
    """All candidates are ranked."""

    scores: Sequence[Score]
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """The request cannot be answered: `ValueError` and `TypeError` are its fault, `Overloaded` is the load's, and
    anything else is ours."""

    error: Exception


@dataclass(frozen=True)
class Cancelled:
    """It was cancelled before its end."""

    reason: CancelReason


LastEvent = Completed | Scored | Failed | Cancelled
Event = str | Progress | Preview | Image.Image | LastEvent
"""Text (adjacent pieces may arrive as one), a denoising step, an image that is still being drawn, an image, the end."""
