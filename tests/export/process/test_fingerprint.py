from pathlib import Path

from export.process.fingerprint import LARGE, digest_of, file_digest


def test_order_of_names_does_not_matter_and_everything_else_does() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert len({digest_of(parts) for parts in ({"a": 1}, {"a": 2}, {"b": 1}, [1, 2], [2, 1], ["1"], "1")}) == 7


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_large_file_is_read_again_only_where_it_has_changed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    on_bytes_read: list[int] = []
    with (tmp_path / "work/large").open("wb") as stream:
        stream.truncate(LARGE)
    first = file_digest(tmp_path / "work/large", on_bytes_read.append)
    assert (sum(on_bytes_read), len(on_bytes_read) > 1) == (LARGE, True)
    on_bytes_read.clear()
    file = (tmp_path / "work").rename(tmp_path / "out") / "large"
    assert file_digest(file, on_bytes_read.append) == first
    assert on_bytes_read == [LARGE], "as it was known"
    with file.open("r+b") as stream:
        stream.write(b"1")
    on_bytes_read.clear()
    assert file_digest(file, on_bytes_read.append) != first
    assert (sum(on_bytes_read), len(on_bytes_read) > 1) == (LARGE, True)
