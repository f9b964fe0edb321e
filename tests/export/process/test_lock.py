from pathlib import Path

import pytest

from export.process.lock import directory_lock


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with (
        directory_lock(tmp_path),
        pytest.raises(ValueError, match="Another process is writing into"),
        directory_lock(tmp_path),
    ):
        raise AssertionError("two owners")
    with directory_lock(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="There is no directory"), directory_lock(tmp_path / "missing"):
        raise AssertionError("no folder")
