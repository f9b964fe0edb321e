"""Images inside of parquet files: read where they stand, here and at URLs, in any layout that writers make."""

from __future__ import annotations

import numpy as np
import pytest

from bench import object_servers
from trainer.data.index import make_index
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.shard_cache import ShardCache

LAYOUTS = {
    "plain": {"use_dictionary": False, "compression": "none"},
    "as-pyarrow-writes": {},
    "small-pages": {"compression": "zstd", "data_page_size": 2000, "row_group_size": 3, "data_page_version": "2.0"},
}


@pytest.fixture
def table(shards):
    """Documents of several images each, among them empty ones, a row that cannot be used and one that names a file."""

    def write(name="a.parquet", **layout):
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = []
        for number in range(10):
            images = [{"bytes": shards.image_bytes(10 * number + n), "path": None} for n in range(number % 3)]
            rows.append(
                {
                    "metadata": np.random.default_rng(number).bytes(100_000),
                    "texts": [f"Text {number}.", *[None] * len(images)],
                    "images": [None, *images],
                }
            )
        rows[4]["images"].append({"bytes": b"unused", "path": None})  # and no text beside it
        rows[5]["images"][1] = {"bytes": None, "path": "gone.png"}
        parquet.write_table(arrow.Table.from_pylist(rows), shards.root / name, **layout)
        return shards.root / name

    return write


def images_of(manifest):
    return {
        int(manifest[n].texts[0].split()[1].rstrip(".")): [image.read() for image in manifest[n].images]
        for n in range(len(manifest))
    }


def expected(shards):
    found = {n: [shards.image_bytes(10 * n + m) for m in range(n % 3)] for n in range(10) if n != 4}
    del found[5][0]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_those_of_the_table(shards, table, tmp_path, layout):
    cache = ShardCache(tmp_path / "cache", 10_000_000)
    manifest = make_index([table(**LAYOUTS[layout])], tmp_path / "out", max_broken=0.2)
    assert (len(manifest), manifest.num_missing_images) == (9, 1)
    assert images_of(load_manifest(tmp_path / "out", cache)) == expected(shards)
    assert manifest.cacheable(0).size_bytes == sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.shard"))


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_of_a_table_at_a_url_the_columns_that_are_needed_are_read(shards, table, tmp_path, kind):
    path = table(compression="none")
    with object_servers.serving() as web:
        if kind == "http":
            web.files["/a.parquet"] = path.read_bytes()
            read(shards, f"{web.url}/a.parquet", tmp_path)
            assert web.num_bytes_sent < 0.3 * path.stat().st_size  # it is read twice
            assert all(request.has_range for request in web.requests if request.method == "GET")
            return
        with object_servers.s3_bucket() as bucket:
            read(shards, bucket.put("data/a.parquet", path.read_bytes()), tmp_path)


def read(shards, url, tmp_path):
    make_index([url], tmp_path / "out", max_broken=0.2)
    manifest = load_manifest(tmp_path / "out", ShardCache(tmp_path / "cache", 10_000_000))
    assert images_of(manifest) == expected(shards)
    assert manifest.changed_shards() == []


def test_a_table_that_has_changed_is_no_source_of_images(shards, table, tmp_path):
    path = table()
    make_index([path], tmp_path / "out", max_broken=0.2)
    manifest = load_manifest(tmp_path / "out", ShardCache(tmp_path / "cache", 10_000_000))
    [sample] = [manifest[n] for n in range(9) if manifest[n].texts == ("Text 8.",)]
    rows = [{"texts": [f"Text {n}.", None], "images": [None, {"bytes": shards.image_bytes(n)}]} for n in range(10)]
    shards.parquet("a.parquet", rows)
    with pytest.raises(BrokenSampleError, match=r"a\.parquet has changed since it was indexed: other images stand"):
        sample.images[0].read()
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BrokenSampleError, match="has changed since"):
        sample.images[0].read()
    path.unlink()
    with pytest.raises(BrokenSampleError, match=r"a\.parquet is not there any more"):
        sample.images[0].read()
    assert list((tmp_path / "cache").glob("*.shard*")) == []


def test_without_pyarrow_a_run_is_refused_when_it_begins(table, tmp_path, monkeypatch):
    make_index([table()], tmp_path / "out", max_broken=0.2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="is a parquet file, and pyarrow is missing: pip install pyarrow"):
        load_manifest(tmp_path / "out")


def test_an_image_over_the_limit_is_named(shards, table, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.sources.records.MAX_IMAGE_BYTES", 10)
    small, large = b"GIF89a", shards.image_bytes(0)
    rows = [{"image": {"bytes": data}, "caption": "a snail"} for data in (large, small)]
    manifest = make_index([shards.parquet("b.parquet", rows)], tmp_path / "out", max_broken=1.0)
    assert (
        (tmp_path / "out" / "problems.txt").read_text().endswith("row 0: An image has 6,108 bytes; the limit is 10.\n")
    )
    manifest = load_manifest(tmp_path / "out", ShardCache(tmp_path / "cache", 10_000_000))
    assert [manifest[n].images[0].read() for n in range(len(manifest))] == [small]
