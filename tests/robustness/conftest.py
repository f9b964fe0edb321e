"""A disk that fills up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory that holds a few bytes; mounted while a test runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, num_bytes: int) -> None:
        """Make it larger or smaller: in whole pages, and not below what it holds."""
        self._mount("-o", f"remount,size={num_bytes}")

    def empty(self) -> None:
        """Remove all that is in it."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def mount(self, num_bytes: int) -> str | None:
        """Mount it; a sentence if that is not allowed here."""
        try:
            self._mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs")
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or error
            return (
                f"A small file system cannot be mounted ({reason}). "
                "Run as root, or below `unshare --map-root-user --mount`."
            )
        return None

    def unmount(self) -> None:
        """The files in it are gone."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.path)], check=True, capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """One of 1 MiB, to be resized."""
    path = tmp_path / "disk"
    path.mkdir()
    disk = SmallDisk(path)
    why_not = disk.mount(1 << 20)
    if why_not is not None:
        pytest.skip(why_not)
    yield disk
    disk.unmount()
