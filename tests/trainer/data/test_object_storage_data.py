"""Training data in a bucket: indexed there, read through the cache, equal to the same data on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import time

import pytest

from bench import object_servers
from models import object_storage
from models.batch import Batch
from models.config import MMInterleavedConfig
from models.object_storage import StorageError
from models.object_writing import upload
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.emoji.tokenizer import TOKENIZER_FILE
from trainer.data.index import main as index
from trainer.data.index import make_index
from trainer.data.sources.fetched_manifest import load_manifest_at
from trainer.data.sources.manifest import MANIFEST
from trainer.errors import UnusableDataError
from trainer.process import lease
from trainer.process.lease import LEASE_FILE

MODEL = MMInterleavedConfig.tiny()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.001)


@pytest.fixture
def web():
    with object_servers.serving() as web:
        yield web


def digest(batch: Batch) -> str:
    tensors = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return hashlib.sha256(
        b"".join(tensor.numpy().tobytes() for tensor in tensors if hasattr(tensor, "numpy"))
    ).hexdigest()


def stream_of(manifest: str, tmp_path, **settings) -> CorpusStream:
    settings = {"num_rows": 2, "row_tokens": 60, "window_shards": 2, "cache": str(tmp_path / "cache")} | settings
    return CorpusStream(CorpusConfig({"pairs": SourceConfig(manifest)}, **settings), MODEL, seed=0)


def test_batches_from_s3_equal_those_from_files(shards, tmp_path):
    files = [shards.pairs(f"{n}.tar", [f"snail {n} {m}" for m in range(6)]) for n in range(4)]
    with object_servers.s3_bucket() as bucket:
        for file in files:
            bucket.put(f"data/{file.name}", file.read_bytes())
        there = str(tmp_path / "there")
        manifest = make_index([f"{bucket.url}/data"], tmp_path / "there")
        assert [shard.path for shard in manifest.shards] == [f"{bucket.url}/data/{n}.tar" for n in range(4)]
        assert manifest.changed_shards() == []
        here = shards.manifest(*files)
        local, remote = stream_of(here, tmp_path), stream_of(there, tmp_path)
        assert [digest(remote(step)) for step in range(8)] == [digest(local(step)) for step in range(8)]
        bucket.put("data/1.tar", files[1].read_bytes()[::-1])
        bucket.delete("data/2.tar")
        assert [sentence.split(" ")[0] for sentence in manifest.changed_shards()] == [
            f"{bucket.url}/data/1.tar",
            f"{bucket.url}/data/2.tar",
        ]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system-cache"))
    return tmp_path / "system-cache" / "mmfs"


@pytest.mark.parametrize("kind", ["pairs", "parquet"])
def test_the_index_and_the_tokenizer_in_the_bucket(shards, tmp_path, own_cache, kind, capsys):
    rows = [{"image": {"bytes": shards.image_bytes(n)}, "caption": f"snail {n}"} for n in range(8)]
    files = [
        shards.pairs(f"{n}.tar", [f"snail {n} {m}" for m in range(6)])
        if kind == "pairs"
        else shards.parquet(f"{n}.parquet", rows[n : n + 6])
        for n in range(3)
    ]
    here = shards.manifest(*files)
    with object_servers.s3_bucket() as bucket:
        for file in files:
            bucket.put(f"data/{file.name}", file.read_bytes())
        bucket.put("tokenizer.json", TOKENIZER_FILE.read_bytes())
        there = f"{bucket.url}/index"
        assert index([f"{bucket.url}/data", "--out", there]) == 0
        assert f"broken: 0, named in {there}/problems.txt" in capsys.readouterr().out
        assert list((own_cache / "indexes").iterdir()) == []
        tokenizer = {"tokenizer_file": f"{bucket.url}/tokenizer.json"}
        remote, local = stream_of(there, tmp_path, **tokenizer), stream_of(here, tmp_path)
        assert [digest(remote(step)) for step in range(4)] == [digest(local(step)) for step in range(4)]
        assert index([f"{bucket.url}/data", "--out", there]) == 2
        assert f"{there} is complete already" in capsys.readouterr().err
        # Of another machine, by way of a server of the web, where nothing is listed.
        with object_servers.serving() as web:
            for name in bucket.names():
                body = bucket.client.get_object(Bucket="bucket", Key=name)["Body"].read()
                web.files[f"/{name}"] = body
            assert load_manifest_at(f"{web.url}/index/").fingerprint == load_manifest_at(there).fingerprint


def test_two_machines_do_not_write_one_index(shards, own_cache, monkeypatch, capsys):
    """Whoever comes later is told at once; whoever has lost the place completes nothing."""
    with object_servers.s3_bucket() as bucket:
        url = bucket.put("data/a.tar", shards.pairs("a.tar", ["a snail"]).read_bytes())
        there, number = f"{bucket.url}/index", itertools.count()

        def renew(process: int = 7) -> None:
            owner = {"host": "node-b", "pid": process, "id": f"{process}", "renewed": next(number)}
            bucket.put(f"index/{LEASE_FILE}", json.dumps(owner).encode())

        renew()
        monkeypatch.setattr(lease.time, "sleep", lambda seconds: renew())
        assert index([url, "--out", there]) == 2
        said = capsys.readouterr().err
        assert f"{there} belongs to process 7 on node-b" in said
        assert f"Another process writes into {there} now: 7 on node-b. Wait for it" in said
        bucket.delete(f"index/{LEASE_FILE}")

        def upload_and_lose(file, url):
            upload(file, url)
            renew(8)

        monkeypatch.setattr("trainer.data.index_in_storage.upload", upload_and_lose)
        assert index([url, "--out", there]) == 2
        assert f"Process 8 on node-b has begun to write into {there} too. This one ends" in capsys.readouterr().err
        assert f"index/{MANIFEST}" not in bucket.names()


def test_an_upload_that_is_cut_off_goes_on(shards, tmp_path, own_cache, monkeypatch):
    file = shards.pairs("a.tar", [f"snail {m}" for m in range(6)])
    with object_servers.s3_bucket() as bucket:
        url = bucket.put("data/a.tar", file.read_bytes())
        uploaded: list[str] = []

        def upload_two(file, url):
            if len(uploaded) == 2:
                raise StorageError("no more")
            uploaded.append(url.rpartition("/")[2])
            upload(file, url)

        monkeypatch.setattr("trainer.data.index_in_storage.upload", upload_two)
        with pytest.raises(StorageError, match="no more"):
            make_index([url], f"{bucket.url}/index")
        assert uploaded == ["problems.txt", "samples.npy"]
        with pytest.raises(ValueError, match=r"/index holds no complete manifest \(there is no such object\)"):
            load_manifest_at(f"{bucket.url}/index")
        uploaded.clear()
        monkeypatch.setattr("trainer.data.index_in_storage.upload", upload)
        monkeypatch.setattr("trainer.data.index.read_shard", None)  # it is not read again
        assert len(make_index([url], f"{bucket.url}/index")) == 6
        samples = bucket.client.get_object(Bucket="bucket", Key="index/samples.npy")["Body"].read()
        bucket.put("index/samples.npy", samples[:-1] + bytes([samples[-1] ^ 1]))
        shutil.rmtree(own_cache)
        with pytest.raises(ValueError, match="has a table of samples that is not its own"):
            load_manifest_at(f"{bucket.url}/index")


@pytest.mark.parametrize(
    ("out", "path", "sentence"),
    [
        ("https://host/index", "s3://bucket/a.tar", "expected a directory here, or a URL that begins with s3:// or gs"),
        ("s3://bucket/index", "a.tar", "a.tar is of this machine, and --out is s3://bucket/index"),
        ("s3://me:pass@bucket/index", "s3://bucket/a.tar", "--out is s3://bucket/index with a user or password"),
    ],
)
def test_a_place_where_no_index_can_be_is_refused(out, path, sentence, capsys):
    assert index([path, "--out", out]) == 2
    assert sentence in capsys.readouterr().err


def test_a_place_that_holds_something_else_is_left_alone(shards, capsys):
    with object_servers.s3_bucket() as bucket:
        url = bucket.put("data/a.tar", shards.pairs("a.tar", ["a snail"]).read_bytes())
        assert index([url, "--out", f"{bucket.url}/data"]) == 2
        assert "which holds something else: 'a.tar'. Nothing of it was touched" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_in_the_bucket_is_named(web):
    with pytest.raises(ValueError, match=r"tokenizer_file is 'http://.*/none.json', which cannot be read: .* no such"):
        CorpusConfig({"a": SourceConfig("m")}, tokenizer_file=f"{web.url}/none.json").tokenizer()


def test_an_epoch_asks_for_each_shard_once(shards, web, tmp_path):
    for number in range(8):
        file = shards.pairs(f"{number}.tar", [f"snail {number} {m}" for m in range(6)])
        web.files[f"/data/{number}.tar"] = file.read_bytes()
    make_index([f"{web.url}/data/{number}.tar" for number in range(8)], tmp_path / "there")
    size = sum(map(len, web.files.values()))
    stream = stream_of(str(tmp_path / "there"), tmp_path, num_rows=1, row_tokens=24, cache_gb=4.5 * size / 8 / 1e9)
    web.requests.clear()
    web.num_bytes_sent = 0
    keys: list[str] = []
    for step in range(48):
        keys += stream.keys(step)
        if len(keys) >= 30:  # the last window is at hand, and the first one of the next epoch not asked for yet
            break
    assert len(set(keys)) == len(keys) < 36
    deadline = time.monotonic() + 20
    while len(web.gets()) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)  # in a thread
    assert web.gets() == {f"/data/{number}.tar": 1 for number in range(8)}
    assert web.num_bytes_sent <= 1.1 * size


def test_what_storage_does_not_give_out_ends_the_run_with_the_sample_and_is_no_broken_data(shards, web, tmp_path):
    web.files["/a.tar"] = shards.pairs("a.tar", [f"snail {m}" for m in range(6)]).read_bytes()
    make_index([f"{web.url}/a.tar"], tmp_path / "there")
    stream = stream_of(str(tmp_path / "there"), tmp_path)
    web.fault = lambda request, number: 503
    with pytest.raises(
        UnusableDataError, match=r"a\.tar could not be read in 6 tries: .* needed for sample pairs/a\.tar/"
    ):
        stream(0)
    assert stream.read_and_broken()[1] == 0
    web.fault = lambda request, number: None
    assert len(stream(0).input_ids) == 2


def test_a_cache_too_small_for_two_windows_is_refused(shards, web, tmp_path):
    web.files["/a.tar"] = shards.pairs("a.tar", ["a snail"]).read_bytes()
    make_index([f"{web.url}/a.tar"], tmp_path / "there")
    with pytest.raises(ValueError, match=r"corpus.cache_gb is 1e-09; two windows of 2 shards"):
        stream_of(str(tmp_path / "there"), tmp_path, cache_gb=1e-9)
