"""What is a URL, what is refused, and how it is shown."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from models.urls import check_url, is_url, join_url, local_path, require_local, shown_url


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/a.tar", True),
        ("gs://bucket", True),
        ("HTTPS://host/a", True),
        ("azure://somewhere", True),
        (Path("s3://bucket/a.tar"), True),  # which eats a slash
        ("s3:/bucket", True),
        ("runs/a", False),
        ("/data/s3/a.tar", False),
        ("C:/data", False),
        ("a:b", False),
    ],
)
def test_what_is_a_url(place, expected):
    assert is_url(place) is expected


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("azure://bucket/a", "expected a file or folder here, or a URL that begins with s3://, gs://"),
        ("s3:/bucket/a", "expected"),
        ("s3://", "expected"),
        ("https://me:secret@host/a.tar", "a user or password"),
        ("https://secret@host/a.tar", "a user or password"),
        ("s3://bucket/a.tar?X-Amz-Signature=secret", "a query or a fragment"),
        ("https://host/a.tar#secret", "a query or a fragment"),
        ("https://me:secret@host/a.tar?sig=secret", "a user or password"),
    ],
)
def test_what_cannot_be_used_is_refused_without_its_secret(url, told):
    with pytest.raises(ValueError, match="--out is ") as caught:
        check_url(url, "--out")
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://b/a", "gs://b", "hf://datasets/me/data@v1/a.tar", "https://host:8/a/b.tar"])
def test_urls_that_are_taken(url):
    assert check_url(url, "--out") == url


def test_the_scheme_is_given_in_the_letters_that_libraries_know():
    assert check_url("S3://Bucket/A.tar", "--out") == "s3://Bucket/A.tar"


def test_what_is_shown_has_no_secret_and_nothing_a_terminal_obeys():
    assert shown_url("https://me:pw@host:80/a b/c.tar?sig=1#x") == "https://host:80/a b/c.tar"
    assert shown_url("s3://b/\x1b[2J") == "s3://b/\\x1b[2J"


def test_below_a_url():
    assert join_url("s3://b/run/", "checkpoints", "/a/") == "s3://b/run/checkpoints/a"


def test_an_option_that_takes_files_here_refuses_a_url(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=local_path)
    assert parser.parse_args(["--out", "a/b"]).out == Path("a/b")
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "https://me:secret@host/x"])
    told = capsys.readouterr().err
    assert "https://host/x is a URL; expected a file or folder of this machine." in told
    assert "secret" not in told
    with pytest.raises(ValueError, match=r"--out is s3://b/run, a URL"):
        require_local("s3://b/run", "--out")
