"""Files of data on this machine's disk while they are read: shards of object storage, and images from inside of tables.
Each is fetched whole, once for all processes of the machine, and removed again, those unused for longest first, before
they would take more than so many bytes.

Safe against processes that fetch, read and remove at once, and against kill -9: a file gets its name when all of its
bytes are there, and what was left unfinished is removed by the next who needs room.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from models.atomic_files import UNFINISHED, put_in_place, wait_for_disk
from models.cache_folder import cache_folder
from models.write_errors import writing
from trainer.data.sources.regular_files import open_regular
from trainer.data.sources.sample import BrokenSampleError

SUFFIX = ".shard"
NUM_LOCKS = 256
DEFAULT_LIMIT_BYTES = 100 * 10**9
MAX_EVICTIONS = 20
"""So many times a shard is fetched again because it was removed between being found and being opened."""


class CacheableFile(Protocol):
    """What the cache can hold; as a text, it is named in messages."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def identity(self) -> str:
        """Another text for another content."""

    def write(self, file: Path) -> None:
        """Make the file. Raises BrokenSampleError, StorageError, WriteError."""


@dataclass(frozen=True)
class ShardCache:
    """A directory of shards.

    Raises:
        ValueError: a shard is larger than all that the cache may hold.
        WriteError: there is no room on the disk.
    """

    directory: Path
    limit_bytes: int

    def read(self, shard: CacheableFile, offset: int, size: int) -> bytes:
        """A part of a shard; fewer bytes where the shard ends.

        Raises:
            BrokenSampleError: the shard is not there any more, or is another one than was indexed.
            StorageError: storage does not give it out.
        """
        for _ in range(MAX_EVICTIONS):
            path = self.fetch(shard)
            assert path is not None
            with suppress(FileNotFoundError), open_regular(path) as file:
                file.seek(offset)
                return file.read(max(size, 0))
        raise BrokenSampleError(
            f"{shard} was removed from {self.directory} again and again before it could be read. Its "
            "limit is too small for what is read at once: raise corpus.cache_gb."
        )

    def fetch(self, shard: CacheableFile, *, waits: bool = True) -> Path | None:
        """The file of a shard, which is whole; None if another process is fetching it, and we do not wait."""
        path = self.directory / f"{_name(shard)}{SUFFIX}"
        if _is_whole(path, shard):
            return path
        if shard.size_bytes > self.limit_bytes:
            raise ValueError(
                f"{shard} has {shard.size_bytes:,} bytes, more than the {self.limit_bytes:,} that "
                f"{self.directory} may hold. Raise corpus.cache_gb."
            )
        with writing(self.directory):
            (self.directory / "locks").mkdir(parents=True, exist_ok=True)
        with self._lock(_name(shard)[:2], waits=waits) as is_held:
            if not is_held:
                return None
            if not _is_whole(path, shard):
                self._fetch(shard, path)
        return path

    def _fetch(self, shard: CacheableFile, path: Path) -> None:
        unfinished = path.with_name(path.name + UNFINISHED)
        self._make_room(shard, unfinished)
        try:
            shard.write(unfinished)
            with writing(path, shard.size_bytes):
                wait_for_disk(unfinished)
                with self._lock("room"):  # who counts meanwhile would see neither name
                    put_in_place(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, shard: CacheableFile, unfinished: Path) -> None:
        """Remove others until there is room, and take it by a file in whose name the shard's size stands: an unfinished
        one has fewer bytes than it will have."""
        with self._lock("room"):
            held: list[tuple[float, int, Path]] = []
            for entry in os.scandir(self.directory):
                path = Path(entry.path)
                with suppress(FileNotFoundError):
                    if path == unfinished or (entry.name.endswith(UNFINISHED) and self._is_left_over(path)):
                        path.unlink()
                    elif entry.name.endswith((SUFFIX, UNFINISHED)):
                        held.append((entry.stat().st_mtime, _size_in(entry.name), path))
            num_bytes = sum(size for _, size, _ in held)
            for _, size, path in sorted(held):
                if num_bytes + shard.size_bytes <= self.limit_bytes:
                    break
                if path.name.endswith(SUFFIX):
                    path.unlink(missing_ok=True)
                    num_bytes -= size
            with writing(unfinished, shard.size_bytes):
                unfinished.touch()

    def _is_left_over(self, unfinished: Path) -> bool:
        """Whether nobody is writing an unfinished file: its process was killed."""
        with self._lock(unfinished.name[:2], waits=False) as is_held:
            return is_held

    @contextmanager
    def _lock(self, name: str, *, waits: bool = True) -> Iterator[bool]:
        """Hold one of `NUM_LOCKS` locks (or the one called "room"); the system releases those of a process that ends.
        Gives whether it is held, which it may not be if we do not wait."""
        file = os.open(self.directory / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile would go on holding it
        finally:
            os.close(file)


def _name(shard: CacheableFile) -> str:
    """Of its file: another one for another content."""
    digest = hashlib.blake2b(shard.identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"{digest}-{shard.size_bytes}"


def _size_in(name: str) -> int:
    """The bytes of a shard whose file has this name."""
    size = name.partition(".")[0].rpartition("-")[2]
    return int(size) if size.isdecimal() else 0


def _is_whole(path: Path, shard: CacheableFile) -> bool:
    """Whether a shard is here; it is marked as used now."""
    try:
        if path.stat().st_size != shard.size_bytes:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def default_cache() -> ShardCache:
    """Where files of data are kept unless somebody says where."""
    return ShardCache(cache_folder() / "shards", DEFAULT_LIMIT_BYTES)


@dataclass(frozen=True)
class CachedShard:
    """A shard, read from the cache."""

    shard: CacheableFile
    cache: ShardCache

    def __str__(self) -> str:
        return str(self.shard)

    def read_part(self, offset: int, size: int) -> bytes:
        """Fewer bytes where it ends. Raises BrokenSampleError, StorageError, WriteError."""
        return self.cache.read(self.shard, offset, size)


@dataclass
class ReadAhead:
    """Fetches shards before they are read, in a thread of the process that uses it."""

    cache: ShardCache
    _wanted: list[CacheableFile] = field(default_factory=list)
    _pid: int = 0
    _wakes: threading.Event = field(default_factory=threading.Event)

    def want(self, shards: Sequence[CacheableFile]) -> None:
        """Fetch these next, in this order, and then what is left of those that were wanted before."""
        self._wanted = [*shards, *(shard for shard in self._wanted if shard not in shards)]
        if self._pid != os.getpid():  # a forked process has no thread yet
            self._pid = os.getpid()
            self._wakes = threading.Event()
            threading.Thread(target=self._work, args=(self._wakes,), daemon=True, name="shards ahead").start()
        self._wakes.set()

    def _work(self, wakes: threading.Event) -> None:
        while wakes.wait():
            wakes.clear()
            wanted = self._wanted
            while wanted and not wakes.is_set():
                # Whoever needs the shard meets the same error, and tells it with the sample.
                with suppress(OSError, ValueError):
                    self.cache.fetch(wanted[0], waits=False)
                del wanted[0]

    def __getstate__(self) -> dict[str, object]:
        return {"cache": self.cache, "_wanted": [], "_pid": 0}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _wakes=threading.Event())
