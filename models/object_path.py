"""A place in object storage, with those methods of `pathlib.Path` that a run's directory is read by."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from models.object_storage import describe, exists, list_objects, names_below, open_url, read_object
from models.urls import WEB_SCHEMES, check_url, is_url, join_url, scheme_of, shown_url


@dataclass(frozen=True)
class ObjectPath:
    """An object, or what stands before the names of several. Every method asks the storage anew, and raises
    `models.object_storage.StorageError` where that does not answer: what is not there and what cannot be seen are two
    things."""

    url: str

    def __str__(self) -> str:
        return shown_url(self.url)

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(join_url(self.url, name))

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.url.rstrip("/").rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def resolve(self) -> ObjectPath:
        return ObjectPath(self.url.rstrip("/"))

    def exists(self) -> bool:
        return exists(self.url)

    def is_file(self) -> bool:
        try:
            describe(self.url)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return next(iter(self.iterdir()), None) is not None

    def stat(self) -> SimpleNamespace:
        """With `st_size`."""
        return SimpleNamespace(st_size=describe(self.url).size_bytes)

    def read_bytes(self) -> bytes:
        return read_object(self.url)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> IO[bytes]:
        assert mode == "rb", "objects are written by models.object_writing"
        return open_url(self.url)

    def iterdir(self) -> Iterator[ObjectPath]:
        yield from map(ObjectPath, names_below(self.url))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Of the names directly below."""
        yield from (place for place in self.iterdir() if fnmatch(place.name, pattern))


Place = Path | ObjectPath
"""On a disk or in object storage."""


def place_of(text: str) -> Place:
    """What a text names: a URL, or a file or directory here. Raises ValueError for a URL that cannot be used."""
    return ObjectPath(check_url(text, "The place")) if is_url(text) else Path(text)


def sizes_of(place: Place, names: Collection[str]) -> dict[str, int]:
    """Bytes of files below a place, by name, of those that are there. In a bucket, all are asked for at once.

    Raises:
        OSError: it cannot be told.
    """
    if isinstance(place, ObjectPath) and scheme_of(place.url) not in WEB_SCHEMES:  # whose servers need not list files
        base = place.url.rstrip("/") + "/"
        found = {one.url.removeprefix(base): one.size_bytes for one in list_objects(place.url)}
        return {name: found[name] for name in names if name in found}
    sizes = {}
    for name in names:
        with suppress(FileNotFoundError):
            sizes[name] = (place / name).stat().st_size
    return sizes
