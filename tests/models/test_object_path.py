"""Places in object storage as paths."""

from __future__ import annotations

import pytest

from bench import object_servers
from models.object_path import ObjectPath, sizes_of


def test_of_a_web_server_what_stands_directly_below():
    with object_servers.serving() as web:
        page = '<a href="?C=N;O=D">Name</a> <a href="../">up</a> <a href="/data/a.tar">a</a> <a href="b%20c.tar">b</a>'
        page += '<a href="sub/">sub</a> <a href="/data/sub/deep.tar">deep</a> <a href="https://else.where/x">x</a>'
        web.files["/data/a.tar"] = b"a"
        web.pages["/data/"] = page
        place = ObjectPath(f"{web.url}/data")
        assert [one.url for one in place.iterdir()] == [
            f"{web.url}/data/{name}" for name in ("a.tar", "b%20c.tar", "sub")
        ]
        assert [one.read_bytes() for one in place.glob("a*")] == [b"a"]
        assert place.is_dir()
        assert not ObjectPath(f"{web.url}/none").is_dir()


def test_of_a_bucket_what_stands_directly_below():
    with object_servers.s3_bucket() as bucket:
        for name in ("data/b", "data/a", "data/sub/c", "other"):
            bucket.put(name, b"x")
        for place in (ObjectPath(f"{bucket.url}/data"), ObjectPath(f"{bucket.url}/data/")):
            assert [one.url for one in place.iterdir()] == [f"{bucket.url}/data/{name}" for name in ("a", "b", "sub")]
        assert list(ObjectPath(f"{bucket.url}/none").iterdir()) == []


def test_small_objects_and_the_sizes_of_many_take_one_request_each(monkeypatch):
    with object_servers.s3_bucket() as bucket, object_servers.serving(behind=bucket.endpoint) as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
        for name in ("a", "b", "sub/c"):
            bucket.put(f"data/{name}", name.encode())
        web.requests.clear()
        place = ObjectPath(f"{bucket.url}/data")
        assert sizes_of(place, ("a", "sub/c", "none")) == {"a": 1, "sub/c": 5}
        assert (place / "sub/c").read_text() == "sub/c"
        assert [request.method for request in web.requests] == ["GET", "GET"]


def test_sizes_in_a_directory_and_on_a_web_server(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sizes_of(tmp_path, ("a", "none")) == {"a": 3}
    with pytest.raises(NotADirectoryError):
        sizes_of(tmp_path / "a", ("b",))
    with object_servers.serving() as web:
        web.files["/data/a"] = b"abc"
        assert sizes_of(ObjectPath(f"{web.url}/data"), ("a", "none")) == {"a": 3}
