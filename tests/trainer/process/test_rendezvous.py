"""Processes are threads here: what they share is the store alone."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, Store

from trainer.errors import RendezvousError
from trainer.process.interrupt import Interrupted, Stop
from trainer.process.rendezvous import Attempt, Rendezvous, ranks_in_words

PATIENCE_S = 60.0


def meet(store: Store, ranks: range, num: int) -> list[Attempt]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: Rendezvous(store, rank, num).meet(PATIENCE_S), ranks))


def arrive_and_die(store: Store, rank: int, num: int, until: Callable[[], bool] = lambda: True) -> None:
    """Come to a rendezvous, and be killed there as soon as `until` says so."""

    class Killed(Exception):
        pass

    def killed() -> None:
        if until():
            raise Killed

    with pytest.raises(Killed):
        Rendezvous(store, rank, num).meet(PATIENCE_S, killed)


def test_all_get_the_same_name():
    attempts = meet(HashStore(), range(4), 4)
    assert attempts == [attempts[0]] * 4
    assert len(set(attempts[0].members.values())) == 4


def test_each_attempt_has_a_name_of_its_own_with_any_number_of_processes():
    store = HashStore()
    names = [meet(store, range(num), num)[0].name for num in (2, 2, 3, 1, 2)]
    assert len(set(names)) == len(names)


def test_agents_begin_again_at_different_times():
    """The second node's process has died and its successor waits, while the first node's has not noticed."""
    store = HashStore()
    first = Rendezvous(store, 0, 2)
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(first.meet, PATIENCE_S)
        Rendezvous(store, 1, 2).meet(PATIENCE_S)
        before = before.result()
        assert first.began_again(before) == []
        successor = pool.submit(Rendezvous(store, 1, 2).meet, PATIENCE_S)
        while not (dead := first.began_again(before)):
            assert not successor.done(), "the first process of before must not answer for the one to come"
        assert dead == [1]
        after = Rendezvous(store, 0, 2).meet(PATIENCE_S)
    assert successor.result() == after
    assert after.members[1] != before.members[1]


def test_who_dies_in_the_rendezvous_is_waited_for_again():
    """After it came, and after the first process has proposed to begin with it."""
    store = HashStore()
    arrive_and_die(store, 1, 2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Rendezvous(store, 0, 2).meet, PATIENCE_S)
        while not store.check(["proposed"]):
            assert not first.done()
        for _ in range(2):
            arrive_and_die(store, 1, 2, until=lambda: False if first.done() else store.check(["proposed"]))
            assert not first.done(), "with a process that has not confirmed"
        attempt = Rendezvous(store, 1, 2).meet(PATIENCE_S)
    assert first.result() == attempt


def test_who_is_missing_is_named():
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(Rendezvous(store, rank, 4).meet, 0.3) for rank in (0, 2)]
    for one in waiting:
        with pytest.raises(RendezvousError, match=r"^processes 1, 3 of 4 did not come within 0.3 s, so the run"):
            one.result()


@pytest.mark.parametrize("rank", [0, 1])
def test_who_does_not_come_again_is_named_with_the_node_where_it_was(rank):
    store = HashStore()
    meet(store, range(2), 2)
    expected = rf"^process {1 - rank} of 2 \(before this attempt on {socket.gethostname()}\) did not come within 0.3 s"
    with pytest.raises(RendezvousError, match=expected):
        Rendezvous(store, rank, 2).meet(0.3)


def test_the_first_process_is_named_where_it_came_and_died():
    store = HashStore()
    arrive_and_die(store, 0, 2)
    with pytest.raises(RendezvousError, match=r"^process 0 of 2 \(before"):
        Rendezvous(store, 1, 2).meet(0.3)


def test_a_signal_ends_the_wait():
    def check() -> None:
        raise Interrupted(Stop.SIGTERM)

    with pytest.raises(Interrupted, match=r"^SIGTERM: stopped before the run began; nothing was written"):
        Rendezvous(HashStore(), 0, 2).meet(PATIENCE_S, check)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([3], "process 3"),
        ([0, 1], "processes 0, 1"),
        ([9, 0, 4, 5, 6, 7], "processes 0, 4 to 7, 9"),
    ],
)
def test_ranks_in_words(ranks, expected):
    assert ranks_in_words(ranks) == expected
