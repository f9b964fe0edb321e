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


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be made a directory: File name too long\. Name another one\."):
        check_directory(tmp_path / ("n" * 300), own=())
    for length in (252, 300):  # the shorter one has no room for what is added while it is written
        with pytest.raises(UsageError, match=r"cannot be written: File name too long\. Name another one\."):
            make_room_for(tmp_path / ("n" * length))
