"""A shard in object storage, as a file that the cache can hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.object_storage import StoredObject, describe, download
from models.urls import shown_url
from trainer.data.sources.sample import BrokenSampleError


@dataclass(frozen=True)
class StoredShard:
    """An object as it was indexed."""

    stored: StoredObject

    def __str__(self) -> str:
        return shown_url(self.stored.url)

    @property
    def size_bytes(self) -> int:
        return self.stored.size_bytes

    @property
    def identity(self) -> str:
        return f"{self.stored.url}\n{self.stored.size_bytes}\n{self.stored.etag}"

    def write(self, file: Path) -> None:
        """Fetch it, whole.

        Raises:
            BrokenSampleError: it is not there any more, or is another one than was indexed.
            StorageError: storage does not give it out.
            WriteError: there is no room.
        """
        try:
            download(self.stored.url, file, self.size_bytes)
            found = describe(self.stored.url)
        except FileNotFoundError as error:
            raise BrokenSampleError(f"{self} is not there any more.") from error
        if (found.size_bytes, found.etag) != (self.size_bytes, self.stored.etag):
            raise BrokenSampleError(changed_sentence(self.stored, found))


def changed_sentence(shard: StoredObject, found: StoredObject) -> str:
    """What a person has to know about a shard that is not the one that was indexed."""
    what = (
        f"has {found.size_bytes:,} bytes, not {shard.size_bytes:,}"
        if found.size_bytes != shard.size_bytes
        else f"has the ETag {found.etag}, not {shard.etag}"
    )
    return f"{shown_url(shard.url)} has changed since it was indexed: it {what}."
