"""Objects are read whole and in part, from S3 and the web; what may pass is tried again, and secrets stay secret."""

from __future__ import annotations

import importlib.util

import pytest

from bench import object_servers
from models import object_storage
from models.object_storage import (
    SMALL_BLOCK,
    StorageError,
    describe,
    download,
    exists,
    list_objects,
    open_url,
    read_object,
    read_range,
)

DATA = bytes(range(256)) * 4096  # a mebibyte


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def bucket():
    with object_servers.s3_bucket() as bucket:
        yield bucket


@pytest.fixture
def web():
    with object_servers.serving() as web:
        web.files["/data/a.bin"] = DATA
        yield web


def test_an_s3_bucket_is_read(bucket, tmp_path):
    url = bucket.put("data/a.bin", DATA)
    bucket.put("data/deep/b.bin", b"b")
    assert [(found.url, found.size_bytes) for found in list_objects(f"{bucket.url}/data")] == [
        (url, len(DATA)),
        (f"{bucket.url}/data/deep/b.bin", 1),
    ]
    assert exists(url)
    assert exists(f"{bucket.url}/data")
    assert not exists(f"{bucket.url}/nothing")
    assert list_objects(f"{bucket.url}/nothing") == []
    assert read_range(url, 1000, 24) == DATA[1000:1024]
    assert read_range(url, len(DATA) - 2, 24) == DATA[-2:]
    assert read_object(url) == DATA
    download(url, tmp_path / "a", len(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    before = describe(url)
    bucket.put("data/a.bin", DATA[::-1])
    assert describe(url).size_bytes == before.size_bytes
    assert describe(url).etag != before.etag
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_object(f"{bucket.url}/nothing")


def test_a_web_server_is_read(web, tmp_path):
    url = f"{web.url}/data/a.bin"
    assert describe(url).size_bytes == len(DATA)
    assert describe(url).etag is not None
    assert [found.url for found in list_objects(f"{web.url}/data/")] == [url]
    download(url, tmp_path / "a", len(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_range(f"{web.url}/data/b.bin", 0, 8)


def test_what_lies_between_is_not_read(web):
    web.files["/big.tar"] = bytes(8 << 20)
    with open_url(f"{web.url}/big.tar") as file:
        file.read(512)
        file.seek(7 << 20)
        file.read(512)
        assert file.read(10) == bytes(10)
    assert web.num_bytes_sent <= 2 * SMALL_BLOCK
    with open_url(f"{web.url}/data/a.bin") as file:
        assert file.read() == DATA
        file.seek(-3, 2)
        assert file.read(9) == DATA[-3:]
        assert file.read(9) == b""


@pytest.mark.parametrize("fault", [503, 500, 429, "cut"])
def test_what_may_pass_is_tried_again(web, fault, tmp_path):
    web.fault = lambda request, number: fault if request.method == "GET" and number < 2 else None
    download(f"{web.url}/data/a.bin", tmp_path / "a", len(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert web.gets()["/data/a.bin"] == 3
    web.requests.clear()
    web.fault = lambda request, number: fault if request.method == "GET" and number < 4 else None
    assert read_range(f"{web.url}/data/a.bin", 5, 100) == DATA[5:105]


@pytest.mark.parametrize("fault", [503, "cut"])
def test_what_does_not_pass_is_told_after_so_many_tries(web, fault, tmp_path):
    web.fault = lambda request, number: fault if request.method == "GET" else None
    with pytest.raises(StorageError, match=r"/data/a\.bin could not be read in 6 tries: "):
        download(f"{web.url}/data/a.bin", tmp_path / "a", len(DATA))
    assert web.gets()["/data/a.bin"] == 6


def test_what_is_refused_is_not_asked_again(web):
    web.fault = lambda request, number: 403
    with pytest.raises(StorageError, match="is not given out"):
        read_object(f"{web.url}/data/a.bin")
    assert len(web.requests) == 1


def test_another_size_than_expected_is_no_success(web, tmp_path):
    with pytest.raises(StorageError, match="1,048,576 bytes came, not 7"):
        download(f"{web.url}/data/a.bin", tmp_path / "a", 7)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"s3://b/a is read with s3fs, .*: pip install s3fs"):
        read_object("s3://b/a")


def test_no_secret_is_told(web):
    web.fault = lambda request, number: 403
    with pytest.raises(ValueError, match="a query or a fragment") as caught:
        read_object(f"{web.url}/data/\x1b[2Ja.bin?X-Amz-Signature=secret")
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
