"""Notices a loss far above the recent ones, so that the documents of its batch can be looked at."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

WINDOW = 128
"""So many steps are recent."""

LEAST = 32
"""With fewer, nothing is far above them."""

LEAST_SHARE = 0.01
"""The deviation counts as at least this share of the median, or every step of a flat loss would be far above it."""

PER_DEVIATION = 1.4826
"""Standard deviations in a median absolute deviation of normally distributed numbers."""


@dataclass(frozen=True)
class Usual:
    """What the recent losses were."""

    loss: float
    """Their median."""

    deviation: float
    """Their standard deviation, by the median absolute deviation, which earlier spikes do not change."""


class LossSpikes:
    """The losses of the last steps of a phase.

    Args:
        deviations: so many standard deviations above the median is far; 0: nothing is.
    """

    def __init__(self, deviations: float) -> None:
        self._deviations = deviations
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float) -> Usual | None:
        """Take the loss of a step; returns what was usual before it, if it is far above that."""
        usual = self._usual() if self._deviations and len(self._recent) >= LEAST else None
        self._recent.append(loss)
        if usual is None or loss <= usual.loss + self._deviations * usual.deviation:
            return None
        return usual

    def _usual(self) -> Usual:
        middle = median(self._recent)
        deviation = PER_DEVIATION * median(abs(loss - middle) for loss in self._recent)
        return Usual(middle, max(deviation, LEAST_SHARE * abs(middle)))
