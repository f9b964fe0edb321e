"""One run at a time at a place in object storage; other processes are owners that a test writes down."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from trainer.errors import UsageError
from trainer.process import lease
from trainer.process.lease import LEASE_FILE, Lease, held_lease

ELSEWHERE = {"host": "node-b", "pid": 7, "id": "another", "renewed": 1.0}


@pytest.fixture
def leave(bucket, place):
    """Leaves a lease of another owner."""

    def put(owner):
        bucket.put(f"{place.name}/{LEASE_FILE}", json.dumps(owner).encode())

    return put


def owner_of(place):
    return json.loads((place / LEASE_FILE).read_text())


def nothing_said(line):
    raise AssertionError(f"nobody waits, and it said {line!r}")


def test_it_is_there_while_it_is_held(place):
    with held_lease(place, nothing_said) as held:
        owner = owner_of(place)
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
        held.check()
    assert not (place / LEASE_FILE).exists()


def test_it_is_renewed_and_what_follows_is_called(place, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.01)
    before, renewed = [], threading.Event()

    def on_renewal():
        before.append(owner_of(place)["renewed"])
        if len(set(before)) > 2:
            renewed.set()

    with held_lease(place, nothing_said, on_renewal):
        assert renewed.wait(60)


def test_another_process_that_renews_it_is_named(place, leave):
    leave(ELSEWHERE)
    said = []

    def say(line):
        said.append(line)
        leave({**ELSEWHERE, "renewed": 2.0})

    with pytest.raises(UsageError, match=r"^Another process writes into s3://.* now: 7 on node-b\. Wait for it, "):
        Lease(place).take(say, pause_s=0.01)
    assert said == [
        f"{place} belongs to process 7 on node-b, which has not been heard of for a while, or still runs. It is free "
        "90 s after that was last heard of; waiting."
    ]
    assert owner_of(place)["id"] == "another"


def test_what_nobody_renews_is_free_after_a_while(place, leave, monkeypatch):
    monkeypatch.setattr(lease, "VALID_S", 0.05)
    leave(ELSEWHERE)
    said = []
    taken = Lease(place)
    taken.take(said.append, pause_s=0.01)
    assert len(said) == 1
    taken.check()


def test_what_is_given_back_meanwhile_is_free_at_once(place, leave, bucket):
    leave(ELSEWHERE)
    taken = Lease(place)
    taken.take(lambda line: bucket.delete(f"{place.name}/{LEASE_FILE}"), pause_s=0.01)
    taken.check()


def test_that_of_a_process_of_this_machine_that_has_ended_is_free_at_once(place, leave):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave({**ELSEWHERE, "host": socket.gethostname(), "pid": ended.pid})
    Lease(place).take(nothing_said)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff{"], ids=["empty", "a-list", "no-text"])
def test_one_that_is_damaged_is_of_nobody(place, bucket, content):
    bucket.put(f"{place.name}/{LEASE_FILE}", content)
    taken = Lease(place)
    taken.take(nothing_said)
    taken.check()


def test_who_has_lost_it_sees_it_and_leaves_the_other_one_alone(place, leave):
    with held_lease(place, nothing_said) as held:
        leave(ELSEWHERE)
        with pytest.raises(UsageError, match=r"^Process 7 on node-b has begun to write into s3://.* too\. This one "):
            held.check()
        held.renew()
    assert owner_of(place) == ELSEWHERE
