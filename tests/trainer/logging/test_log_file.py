"""log.jsonl on a full disk and after a power cut."""

import errno
import json
import os

import pytest

from models.write_errors import WriteError
from trainer.logging import appended_file
from trainer.logging.log_file import LogFile, missing_steps, read_log
from trainer.run_files import LOG


def write(directory, records):
    (directory / LOG).write_text("".join(json.dumps(record) + "\n" for record in records))


def steps(phase, numbers):
    return [{"phase": phase, "step": number} for number in numbers]


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    log = LogFile(tmp_path / LOG)
    log.append({"step": 1})

    class FullDisk:
        """A file on a disk that has room for three more bytes."""

        def __init__(self, file):
            self.file, self.left = file, 3

        def write(self, data):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def fileno(self):
            return self.file.fileno()

    whole = log._file._file
    monkeypatch.setattr(log._file, "_file", FullDisk(whole))
    with pytest.raises(WriteError, match=r"no room for .*log.jsonl: its disk has .* It needs 12 bytes"):
        log.append({"step": 2})
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n'
    monkeypatch.setattr(log._file, "_file", whole)
    log.append({"step": 2})
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    log.close()


def test_a_synced_log_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(appended_file.os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    log = LogFile(tmp_path / LOG)
    log.sync()
    log.close()
    assert synced == [str(tmp_path / LOG)]


def test_steps_without_a_line_are_found(tmp_path):
    skipped = {"event": "skipped", "phase": "main", "step": 2}
    main = [*steps("main", [1, 2]), skipped, *steps("main", [6])]
    write(tmp_path, [{"event": "start"}, *steps("encoder", [1, 2, 4]), *main])
    assert missing_steps(tmp_path, {"encoder": 4, "main": 6}) == {"encoder": [3], "main": [4, 5]}
    assert missing_steps(tmp_path, {"encoder": 2}) == {}
    (tmp_path / LOG).unlink()
    assert missing_steps(tmp_path, {"main": 2}) == {"main": [1, 2]}


def test_a_run_that_branched_off_tells_of_its_own_steps(tmp_path):
    write(tmp_path, [{"event": "start", "resumed_from": "a/main-3"}, *steps("main", [4, 6])])
    assert missing_steps(tmp_path, {"encoder": 9, "main": 6}) == {"main": [5]}
