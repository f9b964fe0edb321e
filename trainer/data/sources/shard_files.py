"""The files of a data set: what the paths that a user names mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from models.object_storage import exists, list_objects
from models.printable import printable
from models.urls import shown_url
from trainer.data.sources.regular_files import kind_of_place
from trainer.data.sources.remote_files import shown_place
from trainer.data.sources.tables import TABLE_SUFFIXES

SUFFIXES = (".tar", *TABLE_SUFFIXES)
EXPECTED = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
COMPRESSED = tuple(f"{kind}{suffix}" for kind in (".tar", ".jsonl") for suffix in (".gz", ".bz2", ".xz", ".zst"))


def shard_files(paths: Sequence[Path | str]) -> list[Path | str]:
    """The files that paths mean, each once and in the order of their names. Folders are searched, also those that links
    in them lead to, and URLs for all objects below them.

    Raises:
        ValueError: a path is not there, a folder or file cannot be used, or there is nothing to read.
    """
    found: dict[Path | str, Path | str] = {}
    for path in paths:
        if isinstance(path, str):
            found |= {url: url for url in _objects_below(path)}
        elif path.is_dir():
            for file in sorted(_files_below(path, {path.resolve()})):
                found.setdefault(file.resolve(), file)
        elif path.is_file() and path.name.endswith(SUFFIXES):
            found.setdefault(path.resolve(), path)
        else:
            kind = "of an unknown format" if path.is_file() else kind_of_place(path)
            raise ValueError(f"{printable(str(path))} is {kind}; expected folders or files named {EXPECTED}.")
    if not found:
        raise ValueError(f"{', '.join(map(shown_place, paths))}: no files named {EXPECTED} there.")
    return list(found.values())


def _objects_below(url: str) -> Iterator[str]:
    if url.endswith(SUFFIXES):
        if not exists(url):
            raise ValueError(f"{shown_url(url)} is not there; expected folders or files named {EXPECTED}.")
        yield url
        return
    for found in list_objects(url):
        if found.url.endswith(COMPRESSED):
            raise ValueError(f"{shown_url(found.url)} is compressed, and is not read. Unpack it, or name the others.")
        if found.url.endswith(SUFFIXES):
            yield found.url


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Files with the right names. What has such a name and is no file, or cannot be looked at, is an error: the data
    would lack it without a word."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{printable(str(folder))} cannot be searched: {error.strerror}.") from error
    for entry in entries:
        path = folder / entry.name
        if path.is_dir():
            place = path.resolve()
            if place not in seen:  # a link may lead to a folder above it
                seen.add(place)
                yield from _files_below(path, seen)
        elif entry.name.endswith(SUFFIXES):
            if not path.is_file():
                raise ValueError(f"{printable(str(path))} is {kind_of_place(path)}; remove it, or name the others.")
            yield path
        elif entry.name.endswith(COMPRESSED):
            raise ValueError(f"{printable(str(path))} is compressed, and is not read. Unpack it, or name the others.")


def kind_of(files: Sequence[Path | str]) -> Literal["pairs", "documents"]:
    """What the files hold. Raises ValueError if they differ."""
    is_tar = [str(file).endswith(".tar") for file in files]
    if any(is_tar) and not all(is_tar):
        raise ValueError(
            f"{shown_place(files[is_tar.index(True)])} is a shard of pairs and "
            f"{shown_place(files[is_tar.index(False)])} a table of documents; make a manifest for each. Archives "
            "with the images of documents are named by --images."
        )
    return "pairs" if all(is_tar) else "documents"
