"""An index whose --out is a URL: made in a folder of this machine's cache, then uploaded; what makes it complete comes
last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from models.cache_folder import folder_of_url
from models.object_storage import describe, exists, list_objects
from models.object_writing import check_writable, upload
from models.urls import check_url, join_url, shown_url
from trainer.data.sources.manifest import MANIFEST, PARTS, load_manifest
from trainer.data.sources.remote_files import shown_place
from trainer.data.sources.shard_files import shard_files


def check_place(url: str, places: Sequence[Path | str], own: Collection[str]) -> str:
    """The URL, without a slash at its end, if an index of these places can be written there.

    Args:
        url: of --out.
        places: of shards and images.
        own: patterns of what may be there.

    Raises:
        ValueError: nothing can be written there, it holds something else or a complete index, or a place is of this
            machine.
        StorageError: the storage does not answer.
    """
    url = check_url(url, "--out").rstrip("/")
    check_writable(url, "--out")
    for place in places:
        if isinstance(place, Path):
            raise ValueError(
                f"{shown_place(place)} is of this machine, and --out is {shown_url(url)}, an index that other machines "
                "read, too. Give the URLs of data in storage, or a folder of this machine as --out."
            )
    refuse_complete(url)
    names = [one.url.removeprefix(url).lstrip("/") for one in list_objects(url)]
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in own)]
    if others:
        raise ValueError(
            f"--out is {shown_url(url)}, which holds something else: {', '.join(map(repr, others[:3]))}. Nothing of it "
            "was touched. Name a new or an empty place."
        )
    return url


def refuse_complete(url: str) -> None:
    """Raise ValueError if a complete index is there."""
    if exists(join_url(url, MANIFEST)):
        raise ValueError(complete_sentence(shown_url(url)))


def complete_sentence(place: str) -> str:
    """Why an index is not made."""
    return f"{place} is complete already. Give another --out, or remove it first."


def work_folder(url: str, *how: object) -> Path:
    """Where the index for a URL is made; `how` it is made belongs to its name."""
    return folder_of_url("indexes", url, *how)


def is_ready(folder: Path, paths: Sequence[Path | str]) -> bool:
    """Whether a folder holds a complete index of the shards as they are now, which was not uploaded to its end. One of
    other shards is removed."""
    if not (folder / MANIFEST).exists():
        return False
    indexed = [(shard.path, shard.size_bytes, shard.etag) for shard in load_manifest(folder).shards]
    urls = [str(url) for url in shard_files(paths)]
    if urls == [path for path, _, _ in indexed]:
        now = [(url, found.size_bytes, found.etag) for url in urls for found in (describe(url),)]
        if now == indexed:
            return True
    shutil.rmtree(folder)
    return False


def publish(folder: Path, url: str, before_complete: Callable[[], None]) -> None:
    """Upload a complete index, and remove the folder. Raises StorageError, and what `before_complete` raises, which is
    called before the file that makes it complete is uploaded."""
    names = [path.relative_to(folder).as_posix() for path in [*folder.glob("*"), *folder.glob(f"{PARTS}/*")]]
    files = [name for name in names if (folder / name).is_file() and not name.startswith(".")]
    for name in sorted(files, key=lambda name: (name == MANIFEST, name)):
        if name == MANIFEST:
            before_complete()
        upload(folder / name, join_url(url, name))
    shutil.rmtree(folder)
