"""A manifest: a directory that says which samples there are and where each one lies. `trainer.data.index` makes it.

manifest.json lists the shards; samples.npy has a row for each sample (`places.PLACE`); parts/ has the copied documents.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.data.sources.pairs import read_pair
from trainer.data.sources.places import open_places
from trainer.data.sources.records import read_record
from trainer.data.sources.sample import Sample

MANIFEST = "manifest.json"
SAMPLES = "samples.npy"
PARTS = "parts"
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A file that samples come from."""

    path: str
    """Relative to the manifest's directory."""

    size_bytes: int
    checksum: str | None
    """BLAKE2b of the whole file, where the index was made with checksums."""

    num_samples: int
    num_broken: int
    """Samples, or rows, that could not be used."""


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

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`. Raises BrokenSampleError."""
        place = open_places(self.directory / SAMPLES)[index]
        key = self.key(index)
        shard = int(place["shard"])
        if self.kind == "pairs":
            return read_pair(self.path_of(self.shards[shard]), place, key)
        return read_record(self.directory / records_of(shard), place, key, self.directory)

    def path_of(self, shard: Shard) -> Path:
        """Where a shard is now."""
        return Path(os.path.normpath(self.directory / shard.path))

    def key(self, index: int) -> str:
        """The name of a sample: its shard and its number."""
        shard = self.shards[int(open_places(self.directory / SAMPLES)[index]["shard"])]
        return f"{Path(shard.path).name}/{index}"

    def changed_shards(self) -> list[str]:
        """What is not as it was when the index was made: shards that samples are read from and that are missing, or
        have another size."""
        changed = []
        for shard in self.shards if self.kind == "pairs" else ():  # of documents there are copies
            path = self.path_of(shard)
            if not path.is_file():
                changed.append(f"{path} is missing")
            elif path.stat().st_size != shard.size_bytes:
                changed.append(f"{path} has {path.stat().st_size:,} bytes, not {shard.size_bytes:,}")
        return changed


def records_of(shard: int) -> str:
    """The copied documents of a shard, relative to the manifest."""
    return f"{PARTS}/{shard:06d}.documents"


def images_of(shard: int) -> str:
    """The copied images of a shard, relative to the manifest."""
    return f"{PARTS}/{shard:06d}.images"


def fingerprint_of(kind: str, shards: tuple[Shard, ...], places: np.ndarray) -> str:
    """`Manifest.fingerprint`."""
    digest = hashlib.blake2b(f"{FORMAT} {kind}".encode(), digest_size=16)
    for shard in shards:
        digest.update(f"\n{Path(shard.path).name} {shard.size_bytes} {shard.checksum} {shard.num_samples}".encode())
    for start in range(0, len(places), 1 << 20):
        digest.update(places[start : start + (1 << 20)].tobytes())
    return digest.hexdigest()


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json."""
    fields: dict[str, Any] = {"format": FORMAT, **asdict(manifest)}
    del fields["directory"]
    return json.dumps(fields, indent=1) + "\n"


def load_manifest(directory: str | Path) -> Manifest:
    """The manifest in a directory.

    Raises:
        ValueError: there is none, or one of another format.
    """
    file = Path(directory) / MANIFEST
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        found = fields.pop("format")
        if found != FORMAT:
            raise ValueError(
                f"{file} has format {found}, expected {FORMAT}; make it again: python -m trainer.data.index"
            )
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        return Manifest(directory=Path(directory).resolve(), shards=shards, **fields)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{directory} holds no complete manifest ({type(error).__name__}: {error}). Make one: "
            f"python -m trainer.data.index PATH... --out {directory}"
        ) from error
