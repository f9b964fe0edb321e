"""One shard of an index: read, and kept until all are; a shard that is kept already is not read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.atomic_files import write_atomically
from models.digests import blocks_of
from models.object_storage import StorageError, describe
from models.printable import printable
from models.urls import is_url
from models.write_errors import WriteError
from trainer.data.sources.atomic_file_writer import AtomicFileWriter
from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.manifest import PARTS, Shard, records_of
from trainer.data.sources.pairs import find_pairs
from trainer.data.sources.places import PLACE
from trainer.data.sources.problems import Problems
from trainer.data.sources.published import read_published
from trainer.data.sources.records import copy_records
from trainer.data.sources.regular_files import open_regular
from trainer.data.sources.remote_files import open_place, relative, resolved, shown_place
from trainer.data.sources.table_images import BytesInside
from trainer.data.sources.tables import read_table


@dataclass(frozen=True)
class IndexedShard:
    """What is known of one shard once it is read; its table of places is next to it."""

    shard: Shard
    identity: dict[str, Any]
    """What it was made from, and how; another one has to be made when this changes."""

    num_found_images: int
    num_missing_images: int
    problems: list[str]
    cut_off: list[str]
    """Why it was not read to its end."""

    files: dict[str, Any]
    """What else was written: by name, the digest of the table of places, and the sizes of copies."""


def identity_of(files: Sequence[Path | str], out: Path, **how: Any) -> dict[str, Any]:
    """`IndexedShard.identity`. Raises OSError."""
    versions = [_version(file) for file in files]
    return {
        "paths": [relative(file, out.resolve()) for file in files],
        "sizes_bytes": [size for size, _ in versions],
        "modified": [modified for _, modified in versions],
        **how,
    }


def _version(file: Path | str) -> tuple[int, int | str | None]:
    """The size of a file and when it was changed, or the ETag of an object."""
    if isinstance(file, str):
        found = describe(file)
        return found.size_bytes, found.etag
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def description_of(shard: int) -> str:
    """The file that says that a shard has been read, relative to the manifest."""
    return f"{PARTS}/{shard:06d}.json"


def places_of(shard: int) -> str:
    """The rows of a shard for the manifest's table, relative to the manifest."""
    return f"{PARTS}/{shard:06d}.npy"


def read_shard(
    out: Path, kind: Literal["pairs", "documents"], images: ImageFiles, number: int, identity: dict[str, Any]
) -> IndexedShard:
    """The part of the manifest that shard `number` makes; read again only if it, or what was kept of it, has changed.

    Raises:
        WriteError: a file cannot be written.
        ValueError: the system does not give out a file, or it has changed while it was read.
    """
    if (part := _finished(out, number)) is not None and part.identity == identity:
        return part
    paths = [resolved(path, out.resolve()) for path in identity["paths"]]
    try:
        part = _read(out, kind, images, number, identity, paths)
        after = [_version(path) for path in paths]
    except (WriteError, StorageError):
        raise
    except OSError as error:
        name = error.filename or (paths[0] if len(paths) == 1 else ", ".join(map(str, paths)))
        raise ValueError(
            f"{printable(str(name))} cannot be read: {error.strerror or error}. Mend that, or leave the file out; what "
            "has been read is kept, and the same command goes on."
        ) from error
    for path, now, *before in zip(paths, after, identity["sizes_bytes"], identity["modified"], strict=True):
        if [*now] != before:
            name = shown_place(path)
            raise ValueError(f"{name} has changed while it was read. Give the command again when nobody writes to it.")
    write_atomically(out / description_of(number), json.dumps(asdict(part)))
    return part


def load_places(out: Path, number: int) -> np.ndarray:
    """The rows of a shard that has been read, [number of samples] of `PLACE`.

    Raises:
        OSError, ValueError: they are missing or damaged.
    """
    with open_regular(out / places_of(number)) as file:
        return np.frombuffer(file.read(), PLACE)


def _read(
    out: Path,
    kind: Literal["pairs", "documents"],
    images: ImageFiles,
    number: int,
    identity: dict[str, Any],
    paths: Sequence[Path | str],
) -> IndexedShard:
    problems, inside = Problems(), BytesInside()
    num_found = num_missing = 0
    files: dict[str, Any] = {}
    (out / description_of(number)).unlink(missing_ok=True)  # what it speaks of is about to be replaced
    if kind == "pairs":
        places = find_pairs(paths[0], problems)
    else:
        rows = _rows(paths, identity["form"], identity["split"], problems)
        with AtomicFileWriter(out / records_of(number)) as records:
            places, num_found, num_missing = copy_records(inside.counted(rows), images, records, problems)
        files[records_of(number)] = records.num_bytes
    data = places.tobytes()
    with AtomicFileWriter(out / places_of(number), len(data)) as table:
        table.append(data)
    files[places_of(number)] = _digest(data)
    checksum = _checksum(paths) if identity["checksums"] else None
    etag = identity["modified"][0] if is_url(identity["paths"][0]) else None
    shard = Shard(
        identity["paths"][0],
        sum(identity["sizes_bytes"]),
        checksum,
        len(places),
        problems.count,
        etag,
        inside.num_bytes,
        inside.digest,
    )
    return IndexedShard(shard, identity, num_found, num_missing, problems.named(), problems.cut_off, files)


def _finished(out: Path, number: int) -> IndexedShard | None:
    """A shard that has been read by a command that was stopped later; None if there is none, or it is damaged."""
    try:
        with open_regular(out / description_of(number)) as file:
            fields = json.loads(file.read())
        part = IndexedShard(Shard(**fields.pop("shard")), **fields)
        for name, known in part.files.items():
            if name == places_of(number):
                is_whole = _digest(load_places(out, number).tobytes()) == known
            else:
                is_whole = (out / name).stat().st_size == known
            if not is_whole:
                return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return part


def _rows(paths: Sequence[Path | str], form: str | None, split: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    """The rows of a shard, each with what names it in messages."""
    if form is None:
        return read_table(paths[0], problems)
    return read_published(form, [path for path in paths if isinstance(path, Path)], split, problems)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _checksum(paths: Sequence[Path | str]) -> str:
    """Of the files one after the other."""
    digest = hashlib.blake2b()
    for path in paths:
        with open_place(path) as file:
            for block in blocks_of(file):
                digest.update(block)
    return digest.hexdigest()
