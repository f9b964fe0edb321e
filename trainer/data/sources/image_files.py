"""Images that documents name: in folders, or in tar archives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainer.data.sources.rows import StoredAt
from trainer.data.sources.tar import members


class ImageFiles:
    """Finds images by name. The names in archives are kept in memory, about 200 bytes each.

    Args:
        paths: folders and tar archives; where several have a name, the first counts.
        relative_to: the folder that found paths are relative to.
    """

    def __init__(self, paths: Sequence[Path], relative_to: Path) -> None:
        self.problems: list[str] = []
        self._relative_to = relative_to
        self._folders = [path.resolve() for path in paths if path.is_dir()]
        self._members: dict[str, StoredAt] = {}
        for path in paths:
            if not path.is_dir():
                file = self._relative(path.resolve())
                problems: list[str] = []
                for member in members(path, problems):
                    self._members.setdefault(member.name.removeprefix("./"), (file, member.offset, member.size))
                self.problems += [f"{path}: {problem}" for problem in problems]

    def find(self, name: str) -> StoredAt | None:
        """Where an image is stored, None if nowhere; a name never leads out of the folders."""
        for folder in self._folders:
            path = (folder / name).resolve()
            if path.is_relative_to(folder) and path.is_file():
                return self._relative(path), 0, path.stat().st_size
        return self._members.get(name)

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self._relative_to)).as_posix()
