"""Tables of documents, whole and damaged."""

from __future__ import annotations

import pytest

from trainer.data.sources.problems import Problems
from trainer.data.sources.tables import read_table

ROWS = [{"texts": ["a"], "images": [None]}, {"texts": ["é" * 50], "images": [None]}]


def rows_and_problems(path):
    problems = Problems()
    return [row for _, row in read_table(path, problems)], problems.named()


@pytest.mark.parametrize("name", ["a.jsonl", "docs_shard_0.jsonl.zip"])
def test_json_lines(shards, name):
    assert rows_and_problems(shards.jsonl(name, ROWS)) == (ROWS, [])


def test_parquet_without_its_other_columns(shards):
    path = shards.parquet("a.parquet", [{**row, "metadata": "x" * 100} for row in ROWS])
    assert rows_and_problems(path) == (ROWS, [])
    path.write_bytes(path.read_bytes()[:-20])
    rows, problems = rows_and_problems(path)
    assert rows == []
    assert len(problems) == 1
    assert "the file cannot be read on" in problems[0]


def test_broken_lines_are_passed_over(shards, monkeypatch):
    monkeypatch.setattr("trainer.data.sources.tables.MAX_TEXT_BYTES", 64)
    path = shards.root / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \xff}\n{"a"\n{"a": "' + b"x" * 200 + b'"}\n{"a": 2}')
    rows, problems = rows_and_problems(path)
    assert rows == [{"a": 1}, {"a": 2}]
    assert [problem.partition(":")[0] for problem in problems] == ["line 3", "line 4", "line 5 has more than 64 bytes"]
    assert "not UTF-8" in problems[0]


def test_a_damaged_zip_is_told(shards):
    path = shards.jsonl("a.jsonl.zip", ROWS * 200)
    data = bytearray(path.read_bytes())
    data[60:90] = b"\xff" * 30
    path.write_bytes(data)
    rows, problems = rows_and_problems(path)
    assert len(rows) < 400
    assert "the file 'a.jsonl' cannot be read on" in problems[-1]
    path.write_bytes(data[:50])
    assert rows_and_problems(path) == ([], ["the file cannot be read on: File is not a zip file"])
