"""Who is next, with a clock that stands where a test puts it."""

from dataclasses import dataclass

import pytest

from export.serve.engine.admission import AdmissionQueue
from export.serve.engine.interface import QueuedTooLong, QueueFull
from export.serve.engine.limits import EngineLimits


@dataclass(eq=False)
class Ask:
    client: str
    submitted: float = 0.0


def queue_of(*asks: Ask, **limits: float) -> AdmissionQueue[Ask]:
    queue: AdmissionQueue[Ask] = AdmissionQueue(EngineLimits(**{"max_running": 4, **limits}))  # type: ignore[arg-type]
    for ask in asks:
        queue.add(ask)
    return queue


def admitted(queue: AdmissionQueue[Ask], running: list[str]) -> list[str]:
    while (ask := queue.next(running, lambda _: True)) is not None:
        running.append(ask.client)
    return running


def test_first_come_first_served() -> None:
    first, second = Ask("a"), Ask("a")
    queue = queue_of(first, second)
    assert [queue.next([], lambda _: True), queue.next(["a"], lambda _: True)] == [first, second]
    assert queue.next([], lambda _: True) is None


def test_a_client_with_half_of_the_places_lets_others_go_before() -> None:
    asks = [Ask("a") for _ in range(5)] + [Ask("b")]
    assert admitted(queue_of(*asks), []) == ["a", "a", "b", "a"]
    assert admitted(queue_of(*asks[:5]), []) == ["a"] * 4, "alone it may have all"
    assert admitted(queue_of(*asks[:3]), ["b"]) == ["b", "a", "a", "a"]


def test_who_does_not_fit_keeps_its_turn() -> None:
    large, small = Ask("a"), Ask("b")
    queue = queue_of(large, small)
    assert queue.next([], lambda ask: ask is small) is None
    assert queue.next([], lambda _: True) is large


def test_too_many_are_refused_with_the_time_to_wait() -> None:
    queue = queue_of(*[Ask("a")] * 2, max_queued=2)
    for _ in range(50):
        queue.finished(20.0)
    with pytest.raises(QueueFull, match="2 requests wait already, which is the limit") as refused:
        queue.add(Ask("a"))
    assert refused.value.retry_after == pytest.approx(20.0 * 2 / 4, rel=1e-3)
    assert len(queue) == 2


def test_who_has_waited_too_long_leaves() -> None:
    early, late = Ask("a", 10.0), Ask("a", 12.0)
    queue = queue_of(early, late, queue_timeout=5.0)
    assert queue.seconds_until_expiry(11.0) == 4.0
    assert queue.expired(14.9) == []
    ((job, error),) = queue.expired(15.0)
    assert job is early
    assert isinstance(error, QueuedTooLong)
    assert "waited 5 seconds" in str(error)
    assert list(queue) == [late]
    queue.remove(late)
    assert queue.seconds_until_expiry(20.0) is None
