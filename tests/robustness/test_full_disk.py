"""A disk that is full at any moment of a command's work: a sentence, nothing half-written, the same command goes on."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.graph.external_data import point_to, write_weights
from export.graph.meta_model import Stored
from models.atomic_files import write_atomically
from models.tensor_files import write_tensors
from models.write_errors import WriteError
from robustness.attacked import outcome
from robustness.data_sets import documents, pairs
from trainer import pretrain
from trainer.data.index import main as index
from trainer.data.quarantine import Quarantine
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.places import open_places
from whole_runs import snapshot, steps

ROOT = Path(__file__).parents[2]
PAGE_BYTES = resource.getpagesize()


@pytest.mark.slow
@pytest.mark.parametrize("make", [pairs, documents])
def test_an_index_on_a_disk_that_is_full(tmp_path, small_disk, capsys, make):
    shards = make(tmp_path)
    assert index([*shards, "--out", str(tmp_path / "whole")]) == 0
    whole = load_manifest(tmp_path / "whole").fingerprint
    capsys.readouterr()
    named = set()
    num_pages = 1
    while True:
        out = small_disk.path / str(num_pages)
        small_disk.resize(num_pages * PAGE_BYTES)
        status = index([*shards, "--out", str(out)])
        said = capsys.readouterr().err.splitlines()[-1]
        if status == 0:
            break
        assert status == 2
        assert "Traceback" not in said
        assert "No space left on device" in said or "There is no room for" in said
        named.add(said.partition(" for ")[2].partition(":")[0].rpartition("/")[2])
        assert not [path for path in small_disk.path.rglob("*.part*")]
        assert not (out / "manifest.json").exists()
        small_disk.resize(1 << 22)
        assert index([*shards, "--out", str(out)]) == 0
        assert load_manifest(out).fingerprint == whole
        capsys.readouterr()
        open_places.cache_clear()  # a file that is open keeps its room
        small_disk.empty()
        num_pages += 1
    assert load_manifest(out).fingerprint == whole
    assert num_pages > 15
    written = {"samples.npy", "000000.npy", "000001.npy"}
    if make is documents:
        written |= {"000000.documents", "000001.documents"}
    assert named & written == written, "the disk was full at each of them once"


def test_what_has_been_read_is_not_read_again(tmp_path, small_disk, capsys, monkeypatch):
    shards = pairs(tmp_path)
    out = small_disk.path / "out"
    small_disk.resize(10 * PAGE_BYTES)  # for the places of one shard, and not of both
    assert index([*shards, "--out", str(out)]) == 2
    assert "There is no room for" in capsys.readouterr().err
    from trainer.data import index_shard

    read, find = [], index_shard.find_pairs
    monkeypatch.setattr(
        index_shard, "find_pairs", lambda path, problems: read.append(path.name) or find(path, problems)
    )
    small_disk.resize(1 << 22)
    assert index([*shards, "--out", str(out)]) == 0
    assert read == ["1.tar"]


def test_a_limit_on_the_size_of_files_is_told(tmp_path):
    """`ulimit -f`, which also stands for file systems without large files."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "from trainer.data.index import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *pairs(tmp_path), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.returncode == 2
    assert "000000.npy cannot be written: it is larger than this file system or `ulimit -f` allows." in run.stderr
    assert not list(tmp_path.rglob("*.part*"))


def test_a_quarantine_that_cannot_be_written_is_told(small_disk):
    file = small_disk.path / "quarantine.jsonl"
    small_disk.resize(PAGE_BYTES)
    quarantine = Quarantine(file, 1.0)

    def add_many(quarantine: Quarantine) -> None:
        for number in range(1000):
            quarantine.add("laion", f"sample {number}", "it is cut off")

    with pytest.raises(WriteError, match=r"no room for .*quarantine.jsonl"):
        add_many(quarantine)
    lines_before = len(file.read_text().splitlines())
    small_disk.resize(1 << 20)
    add_many(Quarantine(file, 1.0))
    names = []
    for line in file.read_text().splitlines():
        try:
            names.append(json.loads(line)["name"])
        except ValueError:
            assert line.startswith('{"source": "laion"'), "the line that the full disk cut off"
    assert sorted(names) == sorted(f"sample {number}" for number in range(1000))
    assert lines_before < 100


TRAINING = (
    *("tiny", "--encoder_pretraining.num_steps", "0", "--num_steps", "2", "--num_threads", "1", "--num_workers", "0"),
    *("--checkpoint.every", "1", "--checkpoint.keep_latest", "1"),
)


@pytest.mark.slow
def test_a_training_on_a_disk_that_is_full(tmp_path, small_disk):
    """It is full at the settings, at the log or its charts, at the first checkpoint, and at the second."""
    whole = tmp_path / "whole"
    assert outcome(pretrain.main, [*TRAINING, "--out", str(whole)], tmp_path / "said.txt") == 0
    num_bytes = next((whole / "checkpoints").glob("*/state/*.distcp")).stat().st_size
    out = small_disk.path / "run"
    arguments = [*TRAINING, "--out", str(out)]
    sentences = []
    for size in (0, 2 * PAGE_BYTES, 3 * PAGE_BYTES, num_bytes // 2, int(1.5 * num_bytes)):
        small_disk.empty()
        small_disk.resize(max(size, PAGE_BYTES))
        if not size:
            (small_disk.path / "other").write_bytes(bytes(PAGE_BYTES))
        assert outcome(pretrain.main, arguments, tmp_path / "said.txt") == 1
        said = (tmp_path / "said.txt").read_text()
        assert "Traceback" not in said
        sentences.append(said.splitlines()[-1])
        assert "There is no room for " in sentences[-1], said
        left = [path.name for path in out.rglob("*")]
        assert not [name for name in left if name.endswith(".part") or "unfinished" in name]
    assert re.search(r"checkpoints/main-0000001: .* It needs [\d,]+ bytes", sentences[-2])
    assert re.search(r"checkpoints/main-0000002: .* It needs [\d,]+ bytes", sentences[-1])
    small_disk.resize(1 << 26)
    assert outcome(pretrain.main, arguments, tmp_path / "said.txt") == 0
    assert "goes on after step 1 of phase 'main'" in (tmp_path / "said.txt").read_text()
    assert snapshot(out / "model") == snapshot(whole / "model")
    assert steps(out) == steps(whole)


@pytest.mark.parametrize("kind", ["weights", "graph", "assets"])
def test_an_export_on_a_disk_that_is_full(small_disk, kind):
    """At each kind of file that a stage writes."""
    tensor = onnx.numpy_helper.from_array(np.zeros(5000, np.float32), "numbers")
    (small_disk.path / "model").mkdir()
    source = small_disk.path / "model" / "model.safetensors"
    source.write_bytes(tensor.raw_data)
    file = small_disk.path / "llm.data"
    small_disk.resize(source.stat().st_size + 2 * PAGE_BYTES)
    if kind == "weights":
        point_to(tensor, Stored(source, 0, 20_000, "F32"))
        graph = onnx.helper.make_graph([], "graph", [], [], [tensor])
        with pytest.raises(WriteError, match=r"no room for .*llm.data: .* It needs 20,000 bytes\."):
            write_weights(onnx.helper.make_model(graph), source.parent, file)
    elif kind == "graph":
        with pytest.raises(WriteError, match=r"no room for .*llm.onnx: .* It needs 20,000 bytes\."):
            write_atomically(file.with_suffix(".onnx"), bytes(20_000))
    else:
        with pytest.raises(WriteError, match=r"no room for .*embedding.safetensors: .* It needs 40,000 bytes\."):
            write_tensors(small_disk.path / "embedding.safetensors", {"embedding": torch.zeros(10_000)})
    assert [path.name for path in small_disk.path.iterdir()] == ["model"]
