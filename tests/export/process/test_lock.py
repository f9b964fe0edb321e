from pathlib import Path

import pytest

from export.process.lock import alone_in


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ValueError, match="Another process is writing into"), alone_in(tmp_path):
        raise AssertionError("two owners")
    with alone_in(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="There is no directory"), alone_in(tmp_path / "missing"):
        raise AssertionError("no folder")
