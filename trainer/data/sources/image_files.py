"""Images that documents name: in folders, or in tar archives."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from models.object_storage import list_objects
from models.urls import shown_url
from trainer.data.sources.problems import Problems
from trainer.data.sources.remote_files import relative, shown_place
from trainer.data.sources.rows import StoredAt
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.tar import members


class ImageFiles:
    """Finds images by name. The names in archives are kept in memory, about 200 bytes each.

    Args:
        paths: folders and tar archives, also their URLs; where several have a name, the first counts, and folders
            of this machine come before all others.
        relative_to: the folder that found paths are relative to.

    Raises:
        OSError: the system does not give out an archive.
        ValueError: an archive cannot be read at all.
    """

    def __init__(self, paths: Sequence[Path | str], relative_to: Path) -> None:
        self.problems: list[str] = []
        self._relative_to = relative_to
        self._folders = [path.resolve() for path in paths if isinstance(path, Path) and path.is_dir()]
        self._members: dict[str, StoredAt] = {}
        for path in paths:
            if isinstance(path, str) and not path.endswith(".tar"):
                self._add_objects(path)
            elif isinstance(path, str) or not path.is_dir():
                self._add_archive(path)

    def _add_objects(self, url: str) -> None:
        found = list_objects(url)
        if not found:
            raise ValueError(f"--images is {shown_url(url)}, where nothing is.")
        for one in found:
            name = one.url.removeprefix(url).lstrip("/")
            self._members.setdefault(posixpath.normpath(name), (one.url, 0, one.size_bytes))

    def _add_archive(self, path: Path | str) -> None:
        file = relative(path, self._relative_to)
        problems = Problems()
        names: set[str] = set()
        num_members = 0
        for member in members(path, problems):
            name = posixpath.normpath(member.name)
            num_members += 1
            names.add(name)
            self._members.setdefault(name, (file, member.offset, member.size))
        if not num_members and problems.count:
            raise ValueError(
                f"--images is {shown_place(path)}, which cannot be used: {problems.sentences[0]}. Expected a folder "
                "or an uncompressed tar archive of images."
            )
        if len(names) < num_members:
            problems.add(f"{num_members - len(names):,} names stand there more than once; the first of each counts")
        self.problems += [f"{shown_place(path)}: {problem}" for problem in problems.named()]

    def find(self, name: str) -> StoredAt | None:
        """Where an image is stored, None if nowhere; a name never leads out of the folders.

        Raises:
            BrokenSampleError: the system cannot say, or a link leads out of the folders.
        """
        for folder in self._folders:
            path = folder / name
            try:
                if not path.is_file():
                    continue
                path = path.resolve()
                size_bytes = path.stat().st_size
            except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, a byte of zero
                reason = getattr(error, "strerror", None) or error
                raise BrokenSampleError(f"The image {name[:80]!r} cannot be looked up: {reason}.") from error
            if any(path.is_relative_to(other) for other in self._folders):
                return relative(path, self._relative_to), 0, size_bytes
            if Path(os.path.normpath(folder / name)).is_relative_to(folder):
                raise BrokenSampleError(
                    f"The image {name[:80]!r} is a link that leads out of {folder}. Name the folder that it leads to "
                    "with --images, too."
                )
        return self._members.get(posixpath.normpath(name))
