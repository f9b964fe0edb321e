"""One run, or one index, at a time at a place in object storage, which has no locks: an object with the name of its
owner, who renews it as long as it lives.

Who comes later waits until a lease is too old, or takes it at once where its owner was a process of this machine that
has ended. Between two that take the same old lease at the same moment the last one to write has it, and the other one
sees that before its next checkpoint, or its index, becomes complete.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from models.object_path import ObjectPath
from models.object_storage import StorageError
from models.object_writing import create_object, remove_object, write_object
from trainer.errors import UsageError

LEASE_FILE = ".lease.json"
RENEWED_EVERY_S = 20.0
VALID_S = 90.0
"""A lease that was not renewed for so long is free."""


class Lease:
    """Held by this process.

    Args:
        place: what it is for.
    """

    def __init__(self, place: ObjectPath) -> None:
        self._place = place
        self._object = place / LEASE_FILE
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}

    def take(self, say: Callable[[str], None], pause_s: float = 1.0) -> None:
        """Take the lease as soon as it is free.

        Raises:
            UsageError: another process renews it.
        """
        if create_object(self._object.url, self._text()):
            return
        found = self._read()
        if found is not None and not _has_ended(found):
            say(
                f"{self._place} belongs to process {found.get('pid')} on {found.get('host')}, which has not been heard "
                f"of for a while, or still runs. It is free {VALID_S:.0f} s after that was last heard of; waiting."
            )
            since = time.monotonic()
            while time.monotonic() - since < VALID_S:
                time.sleep(pause_s)
                now = self._read()
                if now is None:
                    break
                if now != found:
                    raise UsageError(
                        f"Another process writes into {self._place} now: {now.get('pid')} on {now.get('host')}. Wait "
                        f"for it, end it with SIGTERM, or give another place: --out {self._place}-2."
                    )
        write_object(self._object.url, self._text())

    def check(self) -> None:
        """Raise UsageError if another process has taken it."""
        found = self._read()
        if found is not None and found.get("id") != self._owner["id"]:
            raise UsageError(
                f"Process {found.get('pid')} on {found.get('host')} has begun to write into {self._place} too. This "
                "one ends, and has completed nothing since."
            )

    def renew(self) -> None:
        """Say that this process lives, unless another one has the lease. Raises StorageError."""
        found = self._read()
        if found is None or found.get("id") == self._owner["id"]:
            write_object(self._object.url, self._text())

    def release(self) -> None:
        """Let others have it at once."""
        found = self._read()
        if found is not None and found.get("id") == self._owner["id"]:
            remove_object(self._object.url)

    def _text(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time.time()}).encode()

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._object.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether a lease is of a process of this machine that is no more."""
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or type(pid) is not int:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return pid == os.getpid()  # an earlier process had the number, or an earlier lease of this one was left


@contextmanager
def held_lease(
    place: ObjectPath, say: Callable[[str], None], on_renewal: Callable[[], None] = lambda: None
) -> Iterator[Lease]:
    """Hold a place against others, and renew the lease meanwhile.

    Args:
        place: which.
        say: gets what a person who waits should know.
        on_renewal: called by a thread each time that the lease was renewed; may raise StorageError.

    Raises:
        UsageError: another process writes there.
        StorageError: the storage does not answer.
    """
    lease = Lease(place)
    lease.take(say)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_EVERY_S):
            with suppress(StorageError):  # the next time, or the next checkpoint tells
                lease.renew()
                on_renewal()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        with suppress(StorageError):
            lease.release()
