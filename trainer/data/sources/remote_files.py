"""Files of a data set, wherever they are: a path here, or an object in storage, read by the same functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from models.object_storage import StoredObject, describe, list_objects, open_url, read_range
from models.printable import printable
from models.urls import WEB_SCHEMES, check_url, is_url, scheme_of, shown_url
from trainer.data.sources.regular_files import open_regular
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.stored_shard import changed_sentence


@dataclass(frozen=True)
class RemoteFile:
    """An object of which parts are read by themselves: an image, or an archive of images."""

    url: str

    def __str__(self) -> str:
        return shown_url(self.url)

    def read_part(self, offset: int, size: int) -> bytes:
        """Fewer bytes where it ends. Raises BrokenSampleError, StorageError."""
        try:
            return read_range(self.url, offset, size)
        except FileNotFoundError as error:
            raise BrokenSampleError(f"{self} is not there any more.") from error


def file_at(place: Path | str) -> Path | RemoteFile:
    """What `sample.read_bytes` reads."""
    return RemoteFile(place) if isinstance(place, str) else place


def open_place(place: Path | str) -> IO[bytes]:
    """A file or an object, to be read anywhere in it. Raises OSError."""
    return open_url(place) if isinstance(place, str) else open_regular(place)


def changed_objects(indexed: Sequence[StoredObject]) -> list[str]:
    """What of objects that were indexed is missing or has changed, each in a few words.

    Objects of one folder are listed together: thousands of shards are few requests.

    Raises:
        StorageError: storage does not answer.
    """
    found: dict[str, StoredObject] = {}
    for folder in sorted({shard.url.rpartition("/")[0] for shard in indexed}):
        if scheme_of(folder) in WEB_SCHEMES:  # which may not list
            urls = [shard.url for shard in indexed if shard.url.rpartition("/")[0] == folder]
            with ThreadPoolExecutor(16) as pool:
                found |= {one.url: one for one in pool.map(_described, urls) if one is not None}
        else:
            found |= {one.url: one for one in list_objects(folder)}
    changed = []
    for shard in indexed:
        now = found.get(shard.url)
        if now is None:
            changed.append(f"{shown_url(shard.url)} is missing")
        elif now != shard:
            changed.append(changed_sentence(shard, now).rstrip("."))
    return changed


def _described(url: str) -> StoredObject | None:
    try:
        return describe(url)
    except FileNotFoundError:
        return None


def shown_place(place: Path | str) -> str:
    """A place as messages show it."""
    return shown_url(place) if isinstance(place, str) else printable(str(place))


def as_place(text: str, what: str) -> Path | str:
    """A file or folder of this machine as a path, and a URL as the text that it is.

    Raises:
        ValueError: a URL that cannot be used; `what` begins the sentence.
    """
    return check_url(text, what) if is_url(text) else Path(text)


def resolved(place: str, directory: Path) -> Path | str:
    """A place that was written down in a directory: a URL, or a path relative to it."""
    return place if is_url(place) else Path(os.path.normpath(directory / place))


def relative(place: Path | str, directory: Path) -> str:
    """How a place is written down in a directory: a URL as it is, a path relative to it."""
    return place if isinstance(place, str) else Path(os.path.relpath(place.resolve(), directory)).as_posix()
