"""How the files of checkpoints come to stand where they belong, in directories and in object storage.

A directory is written under another name and renamed when it is complete. Objects cannot be renamed: those of a
checkpoint are written under their final names, and the manifest, without which they are no checkpoint, comes last and
goes first.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from models.atomic_files import wait_for_disk, write_atomically
from models.object_path import ObjectPath, Place
from models.object_writing import remove_all, remove_object, write_object
from models.write_errors import writing
from trainer.step.checkpoint_manifest import MANIFEST

UNFINISHED = ".unfinished-"
"""Begins the name of what is being written or removed."""

DAMAGED = ".damaged-"
"""Begins the name of what was put aside because a file of it is not as it was written."""


class CheckpointFiles(ABC):
    """Checkpoints below one place; the first process of a run calls all of this."""

    @abstractmethod
    def aside(self, final: Any) -> Any:
        """Where a checkpoint is written before it is complete."""

    @abstractmethod
    def make_room(self, final: Any) -> None:
        """Before a checkpoint is written; what an earlier try has left of it is removed."""

    @abstractmethod
    def complete(self, final: Any, manifest: str) -> None:
        """Make a checkpoint of files that are all there."""

    @abstractmethod
    def abandon(self, final: Any) -> None:
        """Remove what there is of a checkpoint that cannot be completed."""

    @abstractmethod
    def remove(self, path: Any) -> None:
        """Remove a checkpoint; a kill meanwhile leaves something unfinished, and never a half one of its name."""

    @abstractmethod
    def remove_unfinished(self) -> None:
        """Remove what killed processes have left."""

    @abstractmethod
    def is_accounted_for(self, path: Any) -> bool:
        """Whether what is named like a checkpoint, and is none, is known to be none: it was never complete, or it was
        put aside."""

    @abstractmethod
    def damaged_name(self, path: Any) -> Any:
        """What a damaged checkpoint is called once it is put aside."""

    @abstractmethod
    def put_aside(self, path: Any) -> None:
        """See to it that a damaged checkpoint is found no more and another can have its place."""

    @abstractmethod
    def write(self, name: str, text: str) -> None:
        """A small file, in one step."""


def files_at(directory: Place) -> CheckpointFiles:
    """For the checkpoints of a run."""
    return ObjectCheckpointFiles(directory) if isinstance(directory, ObjectPath) else LocalCheckpointFiles(directory)


class LocalCheckpointFiles(CheckpointFiles):
    """In a directory, which other runs do not write into meanwhile."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def aside(self, final: Path) -> Path:
        return final.with_name(f"{UNFINISHED}{final.name}")

    def make_room(self, final: Path) -> None:
        with writing(final):
            self._directory.mkdir(parents=True, exist_ok=True)
            self.remove_unfinished()
            self.aside(final).mkdir()

    def complete(self, final: Path, manifest: str) -> None:
        unfinished = self.aside(final)
        (unfinished / MANIFEST).write_text(manifest)
        for path in (unfinished / MANIFEST, *(path for path in unfinished.iterdir() if path.is_dir()), unfinished):
            wait_for_disk(path)
        _rename_over(unfinished, final)  # what is there is incomplete, or it would not be written again

    def abandon(self, final: Path) -> None:
        shutil.rmtree(self.aside(final), ignore_errors=True)

    def remove(self, path: Path) -> None:
        going = self.aside(path)
        _rename_over(path, going)
        shutil.rmtree(going)

    def remove_unfinished(self) -> None:
        for left_over in self._directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left_over)

    def is_accounted_for(self, path: Path) -> bool:
        return path.name.startswith((UNFINISHED, DAMAGED))

    def damaged_name(self, path: Path) -> Path:
        return path.with_name(f"{DAMAGED}{path.name}")

    def put_aside(self, path: Path) -> None:
        damaged = self.damaged_name(path)
        _rename_over(path, damaged)
        wait_for_disk(damaged.parent)

    def write(self, name: str, text: str) -> None:
        write_atomically(self._directory / name, text)
        wait_for_disk(self._directory)


def _rename_over(path: Path, to: Path) -> None:
    """Rename a directory; what has the name already is removed first."""
    if to.exists():
        shutil.rmtree(to)
    path.rename(to)


class ObjectCheckpointFiles(CheckpointFiles):
    """In object storage. What has no manifest is unfinished; a damaged checkpoint keeps its objects, with the manifest
    under another name."""

    def __init__(self, directory: ObjectPath) -> None:
        self._directory = directory

    def aside(self, final: ObjectPath) -> ObjectPath:
        return final

    def make_room(self, final: ObjectPath) -> None:
        self.remove(final)

    def complete(self, final: ObjectPath, manifest: str) -> None:
        write_object((final / MANIFEST).url, manifest.encode())

    def abandon(self, final: ObjectPath) -> None:
        if not (final / MANIFEST).is_file():
            remove_all(final.url)

    def remove(self, path: ObjectPath) -> None:
        remove_object((path / MANIFEST).url)
        remove_all(path.url)

    def remove_unfinished(self) -> None:
        for path in self._directory.glob("*-*"):
            if not any(place.is_file() for place in (path / MANIFEST, self.damaged_name(path))):
                remove_all(path.url)

    def is_accounted_for(self, path: ObjectPath) -> bool:
        return not (path / MANIFEST).is_file()

    def damaged_name(self, path: ObjectPath) -> ObjectPath:
        return path / f"{DAMAGED}{MANIFEST}"

    def put_aside(self, path: ObjectPath) -> None:
        manifest = path / MANIFEST
        write_object(self.damaged_name(path).url, manifest.read_bytes())
        remove_object(manifest.url)

    def write(self, name: str, text: str) -> None:
        write_object((self._directory / name).url, text.encode())
