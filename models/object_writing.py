"""Objects written to storage and removed from it; what may pass is tried again, as in `models.object_storage`."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from models.object_storage import filesystem_of, list_objects, read_object, retried
from models.urls import scheme_of, shown_url

WRITABLE = ("s3", "gs")
"""Schemes of storage that takes many objects; each file on the Hugging Face Hub would be a commit."""

_writing: Any = partial(retried, doing="written", refusal="is not taken")
_removing: Any = partial(retried, doing="removed", refusal="is not removed")


def check_writable(url: str, what: str) -> None:
    """Raise ValueError if nothing can be written at a URL; `what` begins the sentence."""
    if scheme_of(url) not in WRITABLE:
        raise ValueError(
            f"{what} is {shown_url(url)}; expected a directory here, or a URL that begins with "
            f"{' or '.join(f'{one}://' for one in WRITABLE)}, where a run can write. A finished model goes to the "
            "Hugging Face Hub with MMInterleaved.push_to_hub."
        )


def upload(file: Path, url: str) -> None:
    """A file as an object, which is there as a whole or not at all. Raises StorageError."""
    _writing(url, lambda: filesystem_of(url).put_file(str(file), url))


def write_object(url: str, content: bytes) -> None:
    """A small object, in place of an earlier one. Raises StorageError."""
    _writing(url, lambda: filesystem_of(url).pipe_file(url, content))


def create_object(url: str, content: bytes) -> bool:
    """A small object, unless there is one already: True if this call has made it, of all that try at once.

    Raises:
        StorageError: the storage does not take it.
    """

    def create() -> bool:
        try:
            filesystem_of(url).pipe_file(url, content, mode="create")
        except FileExistsError:
            return read_object(url) == content  # of an earlier try whose answer was lost
        return True

    made: bool = _writing(url, create)
    return made


def remove_object(url: str) -> None:
    """Remove an object, if it is there. Raises StorageError."""
    with suppress(FileNotFoundError):
        _removing(url, lambda: filesystem_of(url).rm_file(url))


def remove_all(url: str) -> None:
    """Remove all objects below a URL. Raises StorageError."""
    for found in list_objects(url):
        remove_object(found.url)
