"""A model directory in object storage becomes one of this machine: once, and again where it has changed."""

import pytest

from bench import object_servers
from models.hub import model_directory
from models.object_storage import StorageError

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"numbers",
    "adapter/adapter_config.json": b"[]",
    "SHA256SUMS": b"digests",
}
OTHERS = ("model.py", "pytorch_model.bin", "adapter/README.md")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with object_servers.s3_bucket() as bucket:
        yield bucket


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_read_of_a_model_is_fetched_once_and_again_where_it_has_changed(bucket):
    for name, data in {**FILES, **dict.fromkeys(OTHERS, b"not read")}.items():
        bucket.put(f"run/model/{name}", data)
    first = model_directory(f"{bucket.url}/run/model/")
    assert contents(first) == FILES
    (first / "mark").touch()
    assert model_directory(f"{bucket.url}/run/model") == first
    assert (first / "mark").exists()
    bucket.put("run/model/model.safetensors", b"Numbers")
    assert contents(model_directory(f"{bucket.url}/run/model")) == {**FILES, "model.safetensors": b"Numbers"}
    assert sorted(path.name for path in first.parent.iterdir() if path.is_dir() and path.name[0] == ".") == []


def test_a_place_without_a_model_is_named(bucket):
    bucket.put("run/model/model.safetensors", b"numbers")
    with pytest.raises(FileNotFoundError, match=r"run/model holds no config\.json"):
        model_directory(f"{bucket.url}/run/model")


def test_an_object_whose_name_leads_out_of_the_cache_is_refused(bucket, tmp_path):
    for name in ("config.json", "../../../outside.json"):
        bucket.put(f"run/model/{name}", b"{}")
    with pytest.raises(StorageError, match=r"has an object '\.\./\.\./\.\./outside\.json'; expected names"):
        model_directory(f"{bucket.url}/run/model")
    assert contents(tmp_path) == {}
