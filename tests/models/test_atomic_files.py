from pathlib import Path

import pytest

from models import atomic_files
from models.atomic_files import write_atomically


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.json"
    write_atomically(file, "µ")
    assert file.read_bytes() == "µ".encode()

    def power_cut(_descriptor: int) -> None:
        raise OSError("no power")

    monkeypatch.setattr(atomic_files.os, "fsync", power_cut)
    with pytest.raises(OSError, match="no power"):
        write_atomically(file, "another")
    assert file.read_bytes() == "µ".encode()
    assert list(tmp_path.iterdir()) == [file]
