from pathlib import Path

import pytest

from models.atomic_files import write_atomically


def test_a_file_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "ä\n")
    assert file.read_bytes() == b"\xc3\xa4\n"
    write_atomically(file, b"\0\1")
    assert file.read_bytes() == b"\0\1"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "half of a pair: \ud800")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
