"""Archives, whole and damaged."""

from __future__ import annotations

import tarfile

import pytest

from trainer.data.sources.problems import Problems
from trainer.data.sources.tar import members, stem_and_suffix


def names_and_problems(path):
    problems = Problems()
    return [member.name for member in members(path, problems)], problems.named()


def test_members_lie_where_they_say(shards):
    path = shards.tar("a.tar", [("x/1.txt", b"one"), ("x/1.png", b"p" * 700), ("2.txt", b"")])
    problems = Problems()
    found = list(members(path, problems))
    data = path.read_bytes()
    assert [(m.name, data[m.offset : m.offset + m.size]) for m in found] == [
        *(("x/1.txt", b"one"), ("x/1.png", b"p" * 700), ("2.txt", b""))
    ]
    assert problems.named() == []


def test_a_member_that_declares_ten_gigabytes_ends_the_archive(shards):
    path = shards.tar("a.tar", [("1.txt", b"one")])
    info = tarfile.TarInfo("2.png")
    info.size = 10 << 30
    path.write_bytes(path.read_bytes()[:1024] + info.tobuf() + b"x" * 1024)
    names, problems = names_and_problems(path)
    assert names == ["1.txt"]
    assert problems == ["'2.png' declares 10,737,418,240 bytes, but the archive ends 1,024 bytes after its header"]


def test_a_member_beyond_the_limit_is_passed_over(shards, monkeypatch):
    monkeypatch.setattr("trainer.data.sources.tar.MAX_IMAGE_BYTES", 600)
    path = shards.tar("a.tar", [("1.png", b"p" * 601), ("2.png", b"p" * 600)])
    assert names_and_problems(path) == (["2.png"], ["'1.png' has 601 bytes; the limit is 600"])


@pytest.mark.parametrize(
    ("damage", "names", "sentence"),
    [
        pytest.param(lambda data: b"", [], "cannot be read", id="empty"),
        pytest.param(lambda data: b"junk" * 500, [], "cannot be read", id="not-a-tar"),
        pytest.param(lambda data: data[:1024] + b"\xff" * 512 + data[1536:], ["1"], "at byte 1,024", id="header"),
        pytest.param(lambda data: data[:1300], ["1"], "at byte 1,024", id="cut-in-a-header"),
        pytest.param(lambda data: data[:1600], ["1"], "'2' declares 700 bytes, but", id="cut-in-a-member"),
        pytest.param(lambda data: data[:2560], ["1", "2"], "at byte 2,560", id="no-end"),
    ],
)
def test_a_damaged_archive_ends_where_it_is_damaged(shards, damage, names, sentence):
    path = shards.tar("a.tar", [("1", b"one"), ("2", b"t" * 700), ("3", b"three")])
    path.write_bytes(damage(path.read_bytes()))
    found, problems = names_and_problems(path)
    assert found == names
    assert len(problems) == 1
    assert sentence in problems[0]


def test_sample_and_field_of_a_name():
    assert stem_and_suffix("a.b/0001.JPG") == ("a.b/0001", "jpg")
    assert stem_and_suffix("0001.seg.png") == ("0001", "seg.png")
