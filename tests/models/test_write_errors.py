"""What is said of files that cannot be written."""

from __future__ import annotations

import errno

import pytest

from models.atomic_files import write_atomically
from models.write_errors import WriteError, writing


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, r"no room for .*file: its disk has [\d,]+ bytes free. It needs 1,234 bytes. .*Make room"),
        (errno.EDQUOT, r"no room for .*file: your quota of that disk is used up. It needs 1,234 bytes"),
        (errno.EFBIG, "larger than this file system or `ulimit -f` allows"),
        (errno.EROFS, "file cannot be written: Read-only file system."),
    ],
)
def test_the_file_and_what_it_needs_are_named(tmp_path, number, sentence):
    with pytest.raises(WriteError, match=sentence), writing(tmp_path / "file", 1234):
        raise OSError(number, "Read-only file system")


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("models.atomic_files.os.fsync", full)
    with pytest.raises(WriteError, match="It needs 5 bytes"):
        write_atomically(tmp_path / "file", "three")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "one")]
