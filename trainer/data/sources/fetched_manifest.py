"""Manifests at URLs: fetched into a cache of this machine, once, whoever of its processes asks.

All of a manifest is fetched: the table of samples, 29 bytes each, and the texts of documents.
"""

from __future__ import annotations

from pathlib import Path

from models.cache_folder import folder_of_url
from models.fetched_folder import fetched_once
from models.object_storage import describe, download, read_object
from models.urls import check_url, is_url, join_url, shown_url
from models.write_errors import writing
from trainer.data.sources.manifest import (
    MANIFEST,
    SAMPLES,
    Manifest,
    load_manifest,
    no_manifest_sentence,
    records_of,
)
from trainer.data.sources.shard_cache import ShardCache


def load_manifest_at(place: str, cache: ShardCache | None = None) -> Manifest:
    """The manifest in a directory or at a URL; see `load_manifest`.

    Raises:
        ValueError: there is none, it is damaged, or a package is missing that reads it.
        StorageError: the storage does not give it out.
    """
    if not is_url(place):
        return load_manifest(place, cache)
    try:
        return load_manifest(fetched_manifest(place), cache)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error


def fetched_manifest(url: str) -> Path:
    """A local copy of the manifest at a URL; another one where that has changed. Raises as `load_manifest_at` does."""
    base = check_url(url, "The manifest").rstrip("/")
    try:
        written = read_object(join_url(base, MANIFEST))
    except FileNotFoundError as error:
        raise ValueError(no_manifest_sentence(shown_url(base), "there is no such object")) from error

    def fetch(folder: Path) -> None:
        with writing(folder / MANIFEST, len(written)):
            (folder / MANIFEST).write_bytes(written)
        _download(base, SAMPLES, folder)
        manifest = load_manifest(folder)
        if not manifest.has_its_table():
            raise ValueError(
                f"{shown_url(base)} has a table of samples that is not its own: it is damaged, or being written. Wait, "
                "or make it again."
            )
        for number in range(len(manifest.shards)) if manifest.kind == "documents" else ():
            _download(base, records_of(number), folder)

    return fetched_once(folder_of_url("manifests", base, written), fetch)


def _download(base: str, name: str, folder: Path) -> None:
    url = join_url(base, name)
    try:
        size_bytes = describe(url).size_bytes
        (folder / name).parent.mkdir(exist_ok=True)
        download(url, folder / name, size_bytes)
    except FileNotFoundError as error:
        raise ValueError(f"{shown_url(base)} lacks {name}: it is damaged. Make it again.") from error
