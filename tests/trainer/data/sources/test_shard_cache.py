"""Shards of object storage on the local disk: whole or not there, within a limit, however processes end."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bench import object_servers
from models import object_storage
from models.object_storage import StorageError, describe
from models.write_errors import WriteError, writing
from trainer.data.sources.sample import BrokenSampleError, read_bytes
from trainer.data.sources.shard_cache import CachedShard, ReadAhead, ShardCache
from trainer.data.sources.stored_shard import StoredShard


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.001)


@pytest.fixture
def web():
    with object_servers.serving() as web:
        for number in range(8):
            web.files[f"/{number}.tar"] = np.random.default_rng(number).bytes(100_000)
        yield web


def shards_of(web) -> list[StoredShard]:
    return [StoredShard(describe(f"{web.url}{name}")) for name in web.files]


def held_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


def test_a_shard_is_fetched_once_and_read_in_place(web, tmp_path):
    cache = ShardCache(tmp_path / "cache", 300_000)
    shard = shards_of(web)[0]
    body = web.files["/0.tar"]
    for offset in (0, 500, 99_990):
        assert cache.read(shard, offset, 20) == body[offset : offset + 20]
    assert web.gets() == {"/0.tar": 1}


def test_the_limit_is_kept_and_what_is_unused_for_longest_goes(web, tmp_path):
    cache = ShardCache(tmp_path, 350_000)
    shards = shards_of(web)
    for shard in shards[:3]:
        os.utime(cache.fetch(shard), (1, 1))
    cache.fetch(shards[0])  # used again
    cache.fetch(shards[3])
    assert held_bytes(tmp_path) == 300_000
    before = sum(web.gets().values())
    for shard in (shards[0], shards[3]):
        cache.fetch(shard)
    assert sum(web.gets().values()) == before
    with pytest.raises(ValueError, match=r"has 100,000 bytes, more than the 9 that .* Raise corpus.cache_gb"):
        ShardCache(tmp_path, 9).fetch(shards[5])


def test_a_full_disk_is_no_broken_sample(web, tmp_path, monkeypatch):
    def no_room(shard, file):
        with writing(file, shard.size_bytes):
            raise OSError(errno.ENOSPC, "No space left on device")

    image = CachedShard(shards_of(web)[0], ShardCache(tmp_path, 500_000))
    monkeypatch.setattr(StoredShard, "write", no_room)
    with pytest.raises(WriteError, match="There is no room for"):
        read_bytes(image, 0, 10)


def _read_all(directory: Path, shards: list[StoredShard], seed: int) -> None:
    cache = ShardCache(directory, 350_000)
    for number in np.random.default_rng(seed).integers(0, len(shards), 60):
        assert len(cache.read(shards[number], 1000, 64)) == 64


def test_processes_fetch_read_and_remove_at_once(web, tmp_path):
    """Three that need 8 shards where 3 fit."""
    shards = shards_of(web)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(tmp_path, shards, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        if (tmp_path / "locks" / "room").exists():
            with (tmp_path / "locks" / "room").open() as room:
                fcntl.flock(room, fcntl.LOCK_EX)  # else one could go and another come while we count
                names = {path.name.removesuffix(".part") for path in tmp_path.glob("*.shard*")}
            most = max(most, len(names))
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert most == 3


def test_a_process_that_is_killed_leaves_nothing_that_counts(web, tmp_path):
    web.latency = 0.3
    shards = shards_of(web)[:2]
    cache = ShardCache(tmp_path, 150_000)
    process = multiprocessing.get_context("fork").Process(target=cache.fetch, args=(shards[0],))
    process.start()
    while not list(tmp_path.glob("*.part")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(tmp_path.glob("*.part"))) == 1
    web.latency = 0
    assert cache.read(shards[1], 5, 10) == web.files["/1.tar"][5:15]  # there is room, for the part is removed
    assert list(tmp_path.glob("*.part")) == []
    assert cache.read(shards[0], 5, 10) == web.files["/0.tar"][5:15]


@pytest.mark.parametrize("fault", [503, "cut"])
def test_a_faulty_answer_is_never_kept(web, tmp_path, fault):
    cache = ShardCache(tmp_path, 500_000)
    shard = shards_of(web)[0]
    web.fault = lambda request, number: fault if request.method == "GET" and number < 9 else None
    with pytest.raises(StorageError, match=r"0\.tar could not be read in 6 tries"):
        cache.read(shard, 0, 10)
    assert held_bytes(tmp_path) == 0
    assert cache.read(shard, 0, 100_000) == web.files["/0.tar"]


def test_what_has_changed_or_is_gone_is_named(web, tmp_path):
    cache = ShardCache(tmp_path, 500_000)
    first, second, third, *_ = shards_of(web)
    web.files["/0.tar"] = web.files["/0.tar"][::-1]
    with pytest.raises(BrokenSampleError, match=r"0\.tar has changed since it was indexed: it has the ETag"):
        cache.read(first, 0, 10)
    web.files["/1.tar"] += b"more"
    with pytest.raises((BrokenSampleError, StorageError), match="100,004 bytes"):
        cache.read(second, 0, 10)
    del web.files["/2.tar"]
    with pytest.raises(BrokenSampleError, match=r"2\.tar is not there any more"):
        cache.read(third, 0, 10)
    assert held_bytes(tmp_path) == 0


def test_shards_are_fetched_ahead(web, tmp_path):
    shards = shards_of(web)
    ahead = ReadAhead(ShardCache(tmp_path, 900_000))
    ahead.want(shards[:3])
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("*.shard"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert web.gets() == {f"/{number}.tar": 1 for number in range(3)}
    assert sum(thread.name == "shards ahead" for thread in threading.enumerate()) >= 1
