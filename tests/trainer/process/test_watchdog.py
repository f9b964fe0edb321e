import pytest
from torch.distributed import HashStore

from trainer.process.watchdog import Watchdog, stuck_sentence


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        pytest.param(
            {0: (7, "the update"), 1: (5, "the wait for data"), 2: (7, "the update"), 3: (5, "the wait for data")},
            "Stuck: processes 1, 3 of 4, in the wait for data. The others wait in the update.",
            id="two-behind",
        ),
        pytest.param(dict.fromkeys(range(4), (7, "the update")), "All 4 processes are in the update", id="network"),
        pytest.param({0: (1, "x"), 3: (1, "x")}, "processes 1, 2 of 4 did not tell how far they are.", id="silent"),
    ],
)
def test_who_is_stuck(progress, expected):
    sentence = stuck_sentence(progress, 4, 90.0)
    assert sentence.startswith("Nothing has moved for 90 s. ")
    assert expected in sentence


class Clock:
    """Of all processes of a test."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dogs(clock) -> list[Watchdog]:
    """Those of two processes, with a limit of 100 s; they look when a test says so."""
    store = HashStore()
    return [Watchdog(rank, 2, store, 100.0, clock=clock) for rank in range(2)]


def test_a_process_that_keeps_the_others_waiting_is_named_in_any_stage(clock, dogs):
    for dog in dogs:
        dog.enters("the loading of a checkpoint")
    dogs[0].enters("the wait for data")
    assert [dog.look() for dog in (*dogs, *dogs)] == [""] * 4
    clock.now_s = 101.0
    expected = (
        "Nothing has moved for 100 s. Stuck: process 1 of 2, in the loading of a checkpoint. The others wait in the "
        "wait for data."
    )
    assert [dog.look() for dog in dogs] == [expected] * 2


def test_the_others_wait_for_a_process_that_gets_further(clock, dogs):
    for dog in dogs:
        dog.enters("the check of the checkpoint")
    for _ in range(5):  # files, of 60 s each, that one process reads while the other one has done its share
        clock.now_s += 60.0
        dogs[1].heartbeat()
        assert [dog.look() for dog in reversed(dogs)] == ["", ""]
    clock.now_s += 101.0
    assert "Nothing has moved for 100 s." in dogs[0].look()


def test_a_stage_without_a_limit_takes_as_long_as_it_takes(clock, dogs):
    for dog in dogs:
        dog.allows_waiting("the end of the run")
        dog.look()
    clock.now_s = 1e6
    assert [dog.look() for dog in dogs] == ["", ""]


def test_a_process_does_not_wait_for_a_dead_one_whose_successor_has_come(clock):
    dog = Watchdog(0, 4, HashStore(), 100.0, began_again=lambda: [1, 2, 3], clock=clock)
    assert dog.look() == "processes 1 to 3 of 4 died and began again, so this attempt is over for all."
