"""A run in object storage: its checkpoints go there directly, every other file by way of a folder of this machine.

The folder belongs to the URL. When a run begins, or goes on, it is emptied, and the first process fetches the small
files that tell what has happened; they are uploaded again before each checkpoint becomes complete, and at the end. So
after a kill, on whatever machine, the run goes on from its last complete checkpoint, with a log that has all its steps.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from models.cache_folder import folder_of_url
from models.config import CONFIG_FILE
from models.digests import DIGESTS_FILE
from models.directory_lock import LOCK_FILE
from models.object_path import ObjectPath, place_of
from models.object_storage import download_all, objects_below
from models.object_writing import remove_object, upload
from trainer.process.distributed import agent_rank
from trainer.process.interrupt import STOP_FILE
from trainer.process.lease import Lease
from trainer.run_files import CHECKPOINTS, HANG, LOG, MODEL, PROFILE, QUARANTINE, ROW_STARTS, SAMPLES, SETTINGS

FETCHED = (SETTINGS, LOG, QUARANTINE, f"{SAMPLES}/*", f"{ROW_STARTS}/*")
"""What a run that goes on needs of its own files."""

PUBLISHED_OTHERWISE = (MODEL, CHECKPOINTS, HANG, PROFILE, STOP_FILE)
"""What of the folder is not of the first process alone, or has an order of its own, or is for this machine."""

LATE = (CONFIG_FILE, DIGESTS_FILE)
"""The files that make a folder a model."""


def local_folder(out: str) -> Path:
    """Where a run writes its files but for checkpoints: the run directory itself, or the folder of a URL. Machines may
    share a home, and several agents of `torchrun` a machine, so each has its own."""
    place = place_of(out)
    if isinstance(place, Path):
        return place
    agent = f"-agent{agent_rank()}" if agent_rank() else ""
    return folder_of_url("runs", place.url.rstrip("/"), suffix=f"-{socket.gethostname()}{agent}")


def empty_folder(folder: Path) -> None:
    """Remove what an earlier run has left in the folder of a URL, which is locked by this run."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def fetch(place: ObjectPath, folder: Path) -> None:
    """Download what a run that goes on needs. Raises StorageError."""
    download_all(objects_below(place.url, FETCHED), folder)


def publish_files(out: str, files: Collection[Path]) -> None:
    """Upload files that this process has written into the folder of a run; a run in a directory here has them already.
    Raises StorageError."""
    place = place_of(out)
    if isinstance(place, ObjectPath):
        for file in files:
            upload(file, (place / str(file.relative_to(local_folder(out)))).url)


def take_stop(place: ObjectPath, folder: Path) -> None:
    """Put a STOP object, which is removed, into the folder, where a run looks for it. Raises StorageError."""
    if (place / STOP_FILE).is_file():
        (folder / STOP_FILE).touch()
        remove_object((place / STOP_FILE).url)


class Storage:
    """Uploads the files of a run's folder, those that have changed since it last did.

    Args:
        place: where to.
        folder: the files.
        lease: of the place, which is looked at first.
    """

    def __init__(self, place: ObjectPath, folder: Path, lease: Lease) -> None:
        self._lease = lease
        self._place = place
        self._folder = folder
        self._known: dict[str, tuple[int, int]] = {}

    def publish(self) -> None:
        """All but the model.

        Raises:
            UsageError: another run has taken the place.
            StorageError: the storage does not take a file.
        """
        self._lease.check()
        for name in self._names():
            state = (self._folder / name).stat()
            now = state.st_size, state.st_mtime_ns
            if self._known.get(name) != now:
                upload(self._folder / name, (self._place / name).url)
                self._known[name] = now

    def publish_model(self) -> None:
        """The model, which leaves the folder: what makes its objects one is taken away first, where there is an earlier
        one, and comes last. Raises StorageError."""
        model = self._folder / MODEL
        names = [str(path.relative_to(model)) for path in sorted(model.rglob("*")) if path.is_file()]
        for name in LATE:
            remove_object((self._place / MODEL / name).url)
        for name in sorted(names, key=lambda name: name in LATE):
            upload(model / name, (self._place / MODEL / name).url)
        shutil.rmtree(model)

    def _names(self) -> Iterator[str]:
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder)
            if path.is_file() and name.parts[0] not in PUBLISHED_OTHERWISE and not path.name.startswith("."):
                yield str(name)
