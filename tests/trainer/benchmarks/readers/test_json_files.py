import pytest

from trainer.benchmarks.readers.json_files import each, entries_of, read_json, read_json_lines, whole_number
from trainer.errors import UsageError


def test_files_that_cannot_be_read(tmp_path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(UsageError, match=r"a\.json is not there"):
        read_json(file)
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.json cannot be read as JSON"):
            read_json(file)
    file.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(UsageError, match=r"a\.json, line 3: this is no JSON"):
        read_json_lines(file)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_json_lines(tmp_path / "none")


def test_entries(tmp_path) -> None:
    file = tmp_path / "a.json"
    assert entries_of(file, {"data": {"questions": [1]}}, "data", "questions") == [1]
    with pytest.raises(UsageError, match=r"has no 'data\.questions'"):
        entries_of(file, {"data": 3}, "data", "questions")
    with pytest.raises(UsageError, match="its content is a dict; expected a list"):
        entries_of(file, {})
    with pytest.raises(UsageError, match=r"entry 1: it has no 'x'"):
        each(file, [{"x": 1}, {}], lambda one: one["x"])
    with pytest.raises(UsageError, match="entry 0: something in it is of another type"):
        each(file, [3], lambda one: one["x"])


@pytest.mark.parametrize("value", [True, 1.0, -1, "1.5", "x", None, [1], "१"])
def test_what_is_no_whole_number(value) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        whole_number(value)


def test_whole_numbers() -> None:
    assert (whole_number(7), whole_number("007")) == (7, 7)
