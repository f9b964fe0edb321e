from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.process.out_directory import check_directory, make_room_for


def test_what_is_there_is_named_but_for_its_own_and_the_hidden(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "mine", ".hidden"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"holds something else: a, b, c and 1 more\. Nothing .* an empty directory\."):
        check_directory(tmp_path, own=("mine",))
    check_directory(tmp_path, own=("a", "b", "c", "d", "mine"))
    check_directory(tmp_path / "deep" / "below", own=())
    assert not (tmp_path / "deep").exists()


def test_room_for_a_file_is_made_and_nothing_left_in_it(tmp_path: Path) -> None:
    make_room_for(tmp_path / "deep" / "scores.json")
    assert list((tmp_path / "deep").iterdir()) == []
