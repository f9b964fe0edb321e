"""WebDataset shards."""

from __future__ import annotations

import json

import pytest

from trainer.data.sources.pairs import find_pairs, read_pair
from trainer.data.sources.problems import Problems
from trainer.data.sources.sample import BrokenSampleError


def test_pairs_of_all_suffixes_are_read(shards):
    encoded = [shards.image_bytes(number, kind=kind) for number, kind in enumerate(("JPEG", "PNG", "WEBP"))]
    path = shards.tar(
        "a.tar",
        [
            ("0.jpg", encoded[0]),
            ("0.txt", b" a  snail\n"),
            ("1.json", json.dumps({"caption": "two cherries", "similarity": 0.3}).encode()),
            ("1.png", encoded[1]),
            ("2.cls", b"3"),
            ("2.json", b"{}"),
            ("2.txt", "ein Schlüssel".encode()),
            ("2.webp", encoded[2]),
        ],
    )
    problems = Problems()
    places = find_pairs(path, problems)
    samples = [read_pair(path, place, str(number)) for number, place in enumerate(places)]
    assert problems.named() == []
    assert [sample.texts for sample in samples] == [("a snail",), ("two cherries",), ("ein Schlüssel",)]
    assert [image.read() for sample in samples for image in sample.images] == encoded
    assert all(sample.is_pair for sample in samples)


def test_what_is_no_pair_is_named(shards, monkeypatch):
    monkeypatch.setattr("trainer.data.sources.pairs.MAX_TEXT_BYTES", 20)
    path = shards.tar("a.tar", [("0.jpg", b"x"), ("1.txt", b"x"), ("2.jpg", b"x"), ("2.txt", b"x" * 21)])
    problems = Problems()
    assert len(find_pairs(path, problems)) == 0
    assert problems.named() == [
        *("'0' has no caption, only jpg", "'1' has no image, only txt", "'2.txt' has 21 bytes; the limit is 20")
    ]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("0.txt", b"\xff\xfe", "not UTF-8: invalid start byte at byte 0"),
        ("0.json", b"{'caption': 'single quotes'}", "JSON cannot be read"),
        ("0.json", b"[" * 100_000, "JSON cannot be read"),
        ("0.json", b'{"title": "x"}', "no text under"),
        ("0.json", b'{"caption": null}', "no text under"),
    ],
)
def test_a_broken_caption_is_told(shards, name, text, sentence):
    path = shards.tar("a.tar", [("0.jpg", b"x"), (name, text)])
    (place,) = find_pairs(path, Problems())
    with pytest.raises(BrokenSampleError, match=sentence):
        read_pair(path, place, "0")


def test_a_shard_that_shrank_or_went_is_told(shards):
    path = shards.pairs("a.tar", ["a snail"])
    (place,) = find_pairs(path, Problems())
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BrokenSampleError, match="file ends before byte"):
        read_pair(path, place, "0")
    path.unlink()
    with pytest.raises(BrokenSampleError, match="cannot be read: No such file"):
        read_pair(path, place, "0")
