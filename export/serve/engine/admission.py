"""Who is computed next, and who has waited too long: a queue without threads, a model or a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from export.serve.engine.interface import QueuedTooLong, QueueFull
from export.serve.engine.limits import EngineLimits

USUAL_SECONDS = 1.0
"""Of a request, before any has been measured."""

NEWEST = 0.2
"""The share of the newest request in the average of how long they take."""


class Waiting(Protocol):
    """What waits."""

    @property
    def client(self) -> str:
        """Who asked."""

    @property
    def submitted(self) -> float:
        """When, in seconds."""


Job = TypeVar("Job", bound=Waiting)


class AdmissionQueue(Generic[Job]):
    """Requests that wait for a place: first come, first served, but a client that holds half of the places lets others
    go before.

    Args:
        limits: how many places there are, and how many may wait, how long.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self.limits = limits
        self._waiting: list[Job] = []
        self._seconds = USUAL_SECONDS  # that a request takes, on average

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._waiting))

    def check_place(self) -> None:
        """Raise QueueFull if too many wait."""
        if len(self._waiting) >= self.limits.max_queued:
            raise QueueFull(
                f"{len(self._waiting)} requests wait already, which is the limit. Try again later.",
                self.seconds_until_free(len(self._waiting)),
            )

    def add(self, job: Job, num_bytes: int = 0) -> None:
        """Append a job.

        Args:
            job: that waits from now on.
            num_bytes: that others have to free before it fits.

        Raises:
            QueueFull: too many wait, or it would wait too long for memory.
        """
        self.check_place()
        seconds = self.seconds_until_freed(num_bytes)
        if seconds > self.limits.queue_timeout:
            raise QueueFull(
                f"It would take about {seconds:.0f} seconds until there is memory for this request, and one waits "
                f"{self.limits.queue_timeout:g} at most. Try again later.",
                seconds,
            )
        self._waiting.append(job)

    def remove(self, job: Job) -> None:
        """It waits no longer."""
        self._waiting.remove(job)

    def next(self, running: Sequence[str], fits: Callable[[Job], bool]) -> Job | None:
        """Take out the job that is to begin now.

        Args:
            running: the client of each request that is computed.
            fits: whether there is memory for one; the first in turn that does not fit keeps its turn.
        """
        if len(running) >= self.limits.max_running:
            return None
        for job in self._waiting:
            others_wait = any(other.client != job.client for other in self._waiting)
            if others_wait and 2 * running.count(job.client) >= self.limits.max_running:
                continue
            if not fits(job):
                return None
            self._waiting.remove(job)
            return job
        return None

    def expired(self, now: float) -> list[tuple[Job, QueuedTooLong]]:
        """Take out those that have waited too long."""
        late = [job for job in self._waiting if now - job.submitted >= self.limits.queue_timeout]
        for job in late:
            self._waiting.remove(job)
        message = f"The request has waited {self.limits.queue_timeout:g} seconds for a place. Try again later."
        return [(job, QueuedTooLong(message, self.seconds_until_free(len(self._waiting)))) for job in late]

    def seconds_until_expiry(self, now: float) -> float | None:
        """Until the first of those that wait has waited too long; None: nobody waits."""
        if not self._waiting:
            return None
        return max(0.0, min(job.submitted for job in self._waiting) + self.limits.queue_timeout - now)

    def finished(self, seconds: float) -> None:
        """A request took so long."""
        self._seconds += NEWEST * (seconds - self._seconds)

    def seconds_until_free(self, num_before: int) -> float:
        """Until so many requests are done."""
        return max(1.0, self._seconds * num_before / self.limits.max_running)

    def seconds_until_freed(self, num_bytes: int) -> float:
        """Until requests that end have freed so much of the memory: all of it changes hands while one is computed."""
        if self.limits.memory_bytes is None:
            return 0.0
        return self._seconds * max(0, num_bytes) / self.limits.memory_bytes
