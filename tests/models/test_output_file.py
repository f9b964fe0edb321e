"""A file that is to be written is looked at before the work."""

from pathlib import Path

import pytest

from models.output_file import check_output_file


def test_a_file_that_can_be_written_is_not_made_yet(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    check_output_file("--out", file)
    assert list(tmp_path.rglob("*")) == [file.parent]
    file.write_text("kept")
    check_output_file("--out", file)
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (".", "which is a directory; expected a file to write"),
        ("file/below", "which cannot be written: "),
        ("a" * 300, "which cannot be written: File name too long"),
        ("/proc/none/a.json", "which cannot be written: No such file"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"--json is .*, {sentence}"):
        check_output_file("--json", tmp_path / name)
