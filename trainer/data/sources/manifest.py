"""A manifest: a directory that says which samples there are and where each one lies. `trainer.data.index` makes it.

manifest.json lists the shards; samples.npy has a row for each sample (`places.PLACE`); parts/ has the copied documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.object_storage import StoredObject, filesystem_of
from models.printable import printable
from models.urls import is_url, scheme_of
from trainer.data.sources.pairs import read_pair
from trainer.data.sources.places import is_whole, open_places, table_rows
from trainer.data.sources.records import read_record
from trainer.data.sources.regular_files import open_regular
from trainer.data.sources.remote_files import changed_objects, file_at, resolved
from trainer.data.sources.sample import BrokenSampleError, PartialFile, Sample
from trainer.data.sources.shard_cache import CacheableFile, CachedShard, ShardCache, default_cache
from trainer.data.sources.stored_shard import StoredShard
from trainer.data.sources.table_images import TableImages
from trainer.data.sources.tables import require_pyarrow

MANIFEST = "manifest.json"
SAMPLES = "samples.npy"
PARTS = "parts"
FORMAT = 2
DAMAGED = "The index is damaged at this sample; make it again."


@dataclass(frozen=True)
class Shard:
    """A file that samples come from."""

    path: str
    """Relative to the manifest's directory, or a URL."""

    size_bytes: int
    checksum: str | None
    """BLAKE2b of the whole file, where the index was made with checksums."""

    num_samples: int
    num_broken: int
    """Samples, or rows, that could not be used."""

    etag: str | None = None
    """Of an object in storage: changes with its content."""

    inner_bytes: int = 0
    """Of the images that stand inside of a table, in all of its rows."""

    inner_digest: str | None = None
    """Of these."""

    @property
    def stored(self) -> StoredObject | None:
        """What was indexed, of a shard that is an object in storage."""
        return StoredObject(self.path, self.size_bytes, self.etag) if is_url(self.path) else None


@dataclass(frozen=True)
class Manifest:
    """The samples of a data set, by number."""

    directory: Path
    kind: Literal["pairs", "documents"]
    shards: tuple[Shard, ...]
    num_samples: int
    num_missing_images: int
    fingerprint: str
    """Changes with the samples, their order or the shards' sizes, and not with where they are kept."""

    cache: ShardCache | None = None
    """Where shards that are objects in storage, and images from inside of tables, are kept while they are read; None:
    parts of objects are asked for, and such images are kept in `default_cache`."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`. Raises BrokenSampleError."""
        place = self._place(index)
        key = self._key(place, index)
        shard = int(place["shard"])
        if shard >= len(self.shards):
            raise BrokenSampleError(DAMAGED)
        if self.kind == "pairs":
            if not is_whole(place):
                raise BrokenSampleError(DAMAGED)
            return read_pair(self._file_of(shard), place, key)
        inner = self.cacheable(shard)
        images = None if inner is None else CachedShard(inner, self.cache or default_cache())
        return read_record(self.directory / records_of(shard), place, key, self.directory, images)

    def _place(self, index: int) -> np.void:
        try:
            return open_places(self.directory / SAMPLES, self.fingerprint)[index]
        except (OSError, EOFError, ValueError) as error:
            raise BrokenSampleError(f"The index cannot be read: {error}.") from error

    def _key(self, place: np.void, index: int) -> str:
        shard = int(place["shard"])
        name = Path(self.shards[shard].path).name if shard < len(self.shards) else "?"
        return f"{name}/{index}"

    def _file_of(self, number: int) -> Path | PartialFile:
        """What pairs of a shard are read from."""
        stored = self.cacheable(number)
        if stored is None or self.cache is None:
            return file_at(resolved(self.shards[number].path, self.directory))
        return CachedShard(stored, self.cache)

    def cacheable(self, number: int) -> CacheableFile | None:
        """What the cache holds of a shard while it is read, by the shard's number: a shard of pairs that is an object
        in storage, or the images inside of a table. None: nothing."""
        shard = self.shards[number]
        if self.kind == "pairs":
            return None if shard.stored is None else StoredShard(shard.stored)
        if shard.inner_digest is None:
            return None
        return TableImages(resolved(shard.path, self.directory), shard.inner_bytes, shard.inner_digest)

    def key(self, index: int) -> str:
        """The name of a sample: its shard and its number."""
        try:
            return self._key(self._place(index), index)
        except BrokenSampleError:
            return f"?/{index}"

    def has_its_table(self) -> bool:
        """Whether the table of samples is the one that the manifest was written with; all of it is read."""
        return fingerprint_of(self.kind, self.shards, table_rows(self.directory / SAMPLES)) == self.fingerprint

    def shards_in_use(self) -> list[Shard]:
        """Those that samples are read from; of the text of documents there are copies."""
        return [shard for shard in self.shards if self.kind == "pairs" or shard.inner_digest is not None]

    def changed_shards(self) -> list[str]:
        """What is not as it was when the index was made: shards that samples are read from and that are missing, or
        have another size."""
        shards = self.shards_in_use()
        changed = changed_objects([shard.stored for shard in shards if shard.stored is not None])
        for shard in shards:
            path = resolved(shard.path, self.directory)
            if isinstance(path, str):
                continue
            name = printable(str(path))
            if not path.is_file():
                changed.append(f"{name} is missing")
            elif path.stat().st_size != shard.size_bytes:
                changed.append(f"{name} has {path.stat().st_size:,} bytes, not {shard.size_bytes:,}")
        return changed


def records_of(shard: int) -> str:
    """The copied documents of a shard, relative to the manifest."""
    return f"{PARTS}/{shard:06d}.documents"


def fingerprint_of(kind: str, shards: tuple[Shard, ...], places: Iterable[bytes]) -> str:
    """`Manifest.fingerprint`; `places` are the rows of the table, some at a time."""
    digest = hashlib.blake2b(f"{FORMAT} {kind}".encode(), digest_size=16)
    for shard in shards:
        line = f"\n{Path(shard.path).name} {shard.size_bytes} {shard.checksum} {shard.num_samples}"
        line += "" if shard.inner_digest is None else f" {shard.inner_digest}"
        digest.update(line.encode("utf-8", "surrogateescape"))  # names of files are bytes, perhaps no UTF-8
    for rows in places:
        digest.update(rows)
    return digest.hexdigest()


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json."""
    fields: dict[str, Any] = {"format": FORMAT, **asdict(manifest)}
    del fields["directory"], fields["cache"]
    return json.dumps(fields | {"digest": _digest(fields)}, indent=1) + "\n"


def _digest(fields: Mapping[str, Any]) -> str:
    """Of what stands in manifest.json."""
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_manifest(directory: str | Path, cache: ShardCache | None = None) -> Manifest:
    """The manifest in a directory, whose shards in object storage are read through a cache.

    Raises:
        ValueError: there is none, one of another format, or one that is damaged; or a package is missing that reads
            its shards.
    """
    file = Path(directory) / MANIFEST
    again = f"python -m trainer.data.index PATH... --out {directory}"
    try:
        with open_regular(file) as opened:
            data = opened.read()
    except OSError as error:
        raise ValueError(no_manifest_sentence(str(directory), error.strerror or str(error))) from error
    try:
        fields = json.loads(data)
        found = fields["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}). Remove it and make it again."
        ) from error
    if found != FORMAT:
        raise ValueError(f"{file} has format {found!r:.20}, expected {FORMAT}. Remove {directory} and make it again.")
    if fields.pop("digest", None) != _digest(fields):
        raise ValueError(f"{file} is not as it was written. Remove {directory} and make it again.")
    del fields["format"]
    try:
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        manifest = Manifest(directory=Path(directory).resolve(), shards=shards, cache=cache, **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what the index writes ({error}). Make it again: {again}") from error
    _require_packages(manifest)
    num_rows = len(open_places(manifest.directory / SAMPLES, manifest.fingerprint))
    if num_rows != manifest.num_samples:
        raise ValueError(f"{directory} has a table of {num_rows} samples, and its manifest speaks of {len(manifest)}.")
    return manifest


def no_manifest_sentence(place: str, reason: str) -> str:
    """What a person has to know who gives a place without a manifest."""
    return (
        f"{place} holds no complete manifest ({reason}). Make one: python -m trainer.data.index PATH... --out {place}"
    )


def _require_packages(manifest: Manifest) -> None:
    """Raise ValueError if a package is missing that reads the shards of a manifest."""
    shards = manifest.shards_in_use()
    try:
        for url in {scheme_of(shard.path): shard.path for shard in shards if is_url(shard.path)}.values():
            filesystem_of(url)
        for shard in shards[:1] if manifest.kind == "documents" else ():
            require_pyarrow(shard.path)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
