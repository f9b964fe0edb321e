"""Manifests: made, completed, refused, read."""

from __future__ import annotations

import os
import shutil

import pytest

from trainer.data.index import main, make_index
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.shard_cache import ShardCache


def texts(manifest):
    return [manifest[number].texts for number in range(len(manifest))]


def test_pairs_of_several_shards(shards):
    paths = [shards.pairs(f"{n}.tar", [f"snail {n}{i}" for i in range(n + 1)], seed=10 * n) for n in range(3)]
    manifest = load_manifest(shards.manifest(shards.root, checksums=True))
    assert texts(manifest) == [(f"snail {n}{i}",) for n in range(3) for i in range(n + 1)]
    assert [shard.num_samples for shard in manifest.shards] == [1, 2, 3]
    assert [shard.size_bytes for shard in manifest.shards] == [path.stat().st_size for path in paths]
    assert len({shard.checksum for shard in manifest.shards}) == 3
    assert [manifest[5].images[0].read(), manifest[5].key] == [shards.image_bytes(22), "2.tar/5"]
    assert {path.name for path in manifest.directory.iterdir()} == {"manifest.json", "samples.npy", "problems.txt"}


@pytest.mark.parametrize("name", ["docs_shard_0_v2.jsonl.zip", "docs.jsonl"])
@pytest.mark.parametrize("archived", [False, True], ids=["folder", "tar"])
def test_mmc4(shards, name, archived):
    encoded = {"a.png": shards.image_bytes(1), "b.png": shards.image_bytes(2)}
    images = shards.tar("images.tar", list(encoded.items())) if archived else shards.folder("images", encoded)
    row = shards.mmc4_row(["One.", "Two."], [("b.png", 1, 0.3), ("a.png", 0, 0.2), ("gone.png", 0, 0.9)])
    manifest = load_manifest(shards.manifest(shards.jsonl(name, [row, row]), images=[images]))
    sample = manifest[1]
    assert (sample.texts, sample.fixed_order, sample.is_pair) == (("One.", "Two."), False, False)
    assert [(i.read(), i.text, i.similarity) for i in sample.images] == [
        *((encoded["a.png"], 0, 0.2), (encoded["b.png"], 1, 0.3))
    ]
    assert manifest.num_missing_images == 2
    assert "similarity_matrix" not in (manifest.directory / "parts" / "000000.documents").read_text()


def test_obelics_by_name(shards):
    images = shards.folder("images", {"a.png": shards.image_bytes(1)})
    path = shards.parquet("a.parquet", [{"texts": [None, "One."], "images": ["a.png", None]}])
    sample = load_manifest(shards.manifest(path, images=[images]))[0]
    assert (sample.texts, sample.fixed_order, sample.images[0].text) == (("One.",), True, 0)
    assert sample.images[0].read() == shards.image_bytes(1)


def test_images_inside_a_table_stay_there(shards, tmp_path):
    rows = [{"image": {"bytes": shards.image_bytes(n), "path": f"{n}.png"}, "caption": f"snail {n}"} for n in range(3)]
    path = shards.parquet("a.parquet", rows)
    manifest = load_manifest(shards.manifest(path), ShardCache(tmp_path / "cache", 1_000_000))
    held = sum(file.stat().st_size for file in manifest.directory.rglob("*"))
    assert held < path.stat().st_size - len(shards.image_bytes(0)), "an image stands in the index"
    assert [manifest[n].images[0].read() for n in range(3)] == [shards.image_bytes(n) for n in range(3)]
    assert manifest[2].is_pair
    assert manifest.changed_shards() == []
    path.unlink()
    assert manifest[1].images[0].read() == shards.image_bytes(1), "it is in the cache"
    [changed] = manifest.changed_shards()
    assert changed.endswith("a.parquet is missing")


def test_an_interrupted_index_goes_on(shards, monkeypatch):
    for n in range(4):
        shards.pairs(f"{n}.tar", [f"snail {n}"], seed=n)
    whole = load_manifest(shards.manifest(shards.root)).fingerprint
    out = shards.root / "again"
    from trainer.data import index_shard

    read, find_pairs = [], index_shard.find_pairs

    def find_and_stop(path, problems):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path.name)
        return find_pairs(path, problems)

    monkeypatch.setattr(index_shard, "find_pairs", find_and_stop)
    with pytest.raises(KeyboardInterrupt):
        make_index([shards.root], out)
    with pytest.raises(ValueError, match="holds no complete manifest"):
        load_manifest(out)
    changed = shards.pairs("0.tar", ["snail 0 and more"], seed=0)  # meanwhile, with as many bytes
    os.utime(changed, (0, 0))  # at a time that is another one, however coarse the clock of the disk is
    read[:] = ["", ""]
    monkeypatch.setattr(
        index_shard, "find_pairs", lambda path, problems: read.append(path.name) or find_pairs(path, problems)
    )
    manifest = make_index([shards.root], out)
    assert read[2:] == ["0.tar", "2.tar", "3.tar"]
    assert texts(manifest) == [("snail 0 and more",), ("snail 1",), ("snail 2",), ("snail 3",)]
    assert manifest.fingerprint != whole


def test_any_number_of_workers_makes_the_same(shards):
    for n in range(3):
        shards.pairs(f"{n}.tar", ["a snail", "a key"], seed=n)
    one, two = (make_index([shards.root], shards.root / str(n), num_workers=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint
    assert (one.directory / "samples.npy").read_bytes() == (two.directory / "samples.npy").read_bytes()


def test_a_manifest_may_move_with_its_data(shards):
    (shards.root / "data").mkdir()
    path = shards.pairs("data/a.tar", ["a snail"])
    make_index([path], shards.root / "data" / "index")
    shutil.move(shards.root / "data", shards.root / "moved")
    manifest = load_manifest(shards.root / "moved" / "index")
    assert manifest[0].images[0].read() == shards.image_bytes(0)
    assert manifest.changed_shards() == []


def test_changed_shards_are_named(shards):
    paths = [shards.pairs(f"{n}.tar", ["a snail"]) for n in range(3)]
    manifest = make_index(paths, shards.root / "out")
    paths[0].unlink()
    shards.pairs("1.tar", ["a snail", "a key"])
    first, second = manifest.changed_shards()
    assert first.endswith("0.tar is missing")
    assert "1.tar has" in second


def test_broken_samples_are_named_and_too_many_refused(shards, capsys):
    captions = [f"snail {n}" for n in range(9)]
    path = shards.pairs("a.tar", captions)
    bad = shards.tar("b.tar", [("x.png", b"x")])
    out = shards.root / "out"
    assert main([str(path), str(bad), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "1 of 10 samples cannot be used, more than the share of 0.01" in said
    assert "'x' has no caption, only png" in said
    assert main([str(path), str(bad), "--out", str(out), "--max-broken", "0.1"]) == 0
    assert f"9 pairs in 2 shards; broken: 1, named in {out / 'problems.txt'};" in capsys.readouterr().out
    assert (out / "problems.txt").read_text() == "../b.tar: 'x' has no caption, only png\n"
    assert main([str(path), "--out", str(out)]) == 2
    assert "is complete already" in capsys.readouterr().err


def test_one_of_each_is_told_in_the_singular(shards, capsys):
    assert main([str(shards.pairs("a.tar", ["a snail"])), "--out", str(shards.root / "out")]) == 0
    assert ": 1 pair in 1 shard; broken: 0, named in" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["", "/below"], ids=["a-file", "below-a-file"])
def test_a_file_is_no_place_for_a_manifest(shards, capsys, below):
    path = shards.pairs("a.tar", ["a snail"])
    assert main([str(path), "--out", f"{path}{below}"]) == 2
    assert f"{path}{below}, which cannot be made a directory: {path} is a file. Name" in capsys.readouterr().err


def test_a_directory_that_holds_something_else_is_left_alone(shards, capsys):
    path = shards.pairs("a.tar", ["a snail"])
    run = shards.folder("run", {"config.yaml": b"seed: 0", "log.jsonl": b""})
    assert main([str(path), "--out", str(run)]) == 2
    assert f"--out is {run}, which holds something else: config.yaml, log.jsonl. Nothing" in capsys.readouterr().err
    assert {file.name for file in run.iterdir()} == {"config.yaml", "log.jsonl"}
    empty = shards.folder("empty", {".keep": b""})
    assert main([str(path), "--out", str(empty)]) == 0


def test_images_that_are_not_there_are_told(shards, capsys):
    rows, images = shards.jsonl("a.jsonl", [{"image": "a.png", "caption": "a snail"}]), shards.root / "no-images"
    assert main([str(rows), "--images", str(images), "--out", str(shards.root / "out")]) == 2
    assert f"--images is {images}, which is not there; expected folders or tar" in capsys.readouterr().err
    assert not (shards.root / "out").exists()


def test_what_is_no_list_of_conversations_is_told_with_its_path(shards, capsys):
    file = shards.root / "a.json"
    file.write_text('{"conversations": []}')
    assert main([str(file), "--form", "llava", "--out", str(shards.root / "out")]) == 2
    said = capsys.readouterr().err
    assert f": {file}: this is not what llava looks like. It holds a dict; expected a list of conversations." in said
    file.write_text('["a", "b"]')
    assert main([str(file), "--form", "llava", "--out", str(shards.root / "out")]) == 2
    assert "conversation 0: Something in it is of another type than expected" in capsys.readouterr().err


def test_wrong_paths_are_told(shards):
    pairs, table = shards.pairs("a.tar", ["a snail"]), shards.jsonl("b.jsonl", [])
    for paths, sentence in (
        ([shards.root / "no.tar"], "is not there; expected folders or files"),
        ([shards.folder("empty", {})], "no files named"),
        ([pairs, table], "make a manifest for each"),
        ([table], "0 of 0 samples"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make_index(paths, shards.root / "out")


def test_a_manifest_of_another_format_is_refused(shards):
    out = shards.manifest(shards.pairs("a.tar", ["a snail"]))
    file = shards.root / "manifest-a.tar" / "manifest.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 0'))
    with pytest.raises(ValueError, match="has format 0, expected 2"):
        load_manifest(out)
