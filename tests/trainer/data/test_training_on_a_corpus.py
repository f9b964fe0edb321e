"""Whole runs on real data, with the smallest model."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from models import MMInterleaved
from trainer.data.corpus_stream import CorpusStream
from trainer.pretrain import main
from whole_runs import steps


@pytest.fixture
def settings(shards) -> list[str]:
    """Options that train on pairs and documents, some of them broken."""
    captions = shards.pairs("captions.tar", [f"a snail with number {n}" for n in range(20)])
    broken = shards.tar(
        "broken.tar", [member for n in range(15) for member in ((f"{n}.png", b"broken"), (f"{n}.txt", b"a snail"))]
    )
    images = shards.folder("images", {"a.png": shards.image_bytes(50)})
    row = {"segments": [{"text": "One image"}, {"image": "a.png"}, {"text": "of a snail."}]}
    sources = {
        "captions": {"manifest": shards.manifest(captions, broken), "few_shot": 0.5},
        "documents": {"manifest": shards.manifest(shards.jsonl("a.jsonl", [row]), images=[images]), "split": True},
    }
    file = shards.root / "corpus.yaml"
    corpus = {"sources": sources, "num_rows": 2, "row_tokens": 96, "max_broken": 0.1}
    file.write_text(json.dumps({"corpus": corpus, "encoder_pretraining": {"num_steps": 0}, "num_steps": 4}))
    return ["tiny", "--config", str(file), "--checkpoint.every", "2"]


@pytest.mark.own_allocator
def test_a_run_on_a_corpus_is_stopped_and_resumed_exactly(settings, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*settings, "--out", str(whole)]) == 0
    assert [s["step"] for s in steps(whole)] == [1, 2, 3, 4]
    assert any(s["loss_image"] for s in steps(whole))
    MMInterleaved.from_pretrained(whole / "model")
    quarantined = [json.loads(line) for line in (whole / "quarantine.jsonl").read_text().splitlines()]
    assert {line["source"] for line in quarantined} == {"captions"}
    assert all("broken.tar at byte" in line["name"] for line in quarantined)

    make = CorpusStream.compact_part

    def make_and_stop(self, step, rows):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(self, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(CorpusStream, "compact_part", make_and_stop)
        assert main([*settings, "--out", str(stopped)]) == 3
    assert [s["step"] for s in steps(stopped)] == [1, 2]
    assert main([*settings, "--out", str(stopped), "--resume"]) == 0
    assert steps(stopped) == steps(whole)
    left, right = (load_file(out / "model" / "model.safetensors") for out in (stopped, whole))
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_changed_data_is_refused_on_resume_unless_allowed(settings, shards, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*settings, "--out", str(out), "--max_minutes", "1e-9"]) == 0
    again = ["--config", str(out / "config.yaml"), "--max_minutes", "null", "--resume"]
    shards.pairs("captions.tar", [f"a key with number {n}" for n in range(19)])
    assert main(again) == 2
    assert "data of corpus.sources.captions has changed" in capsys.readouterr().err
    assert main([*again, "--corpus.allow_changed", "true"]) == 0
    assert [s["step"] for s in steps(out)] == [1, 2, 3, 4]


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_too_much_broken_data_ends_the_command_with_a_sentence(settings, tmp_path, capsys, num_workers):
    out = tmp_path / "run"
    options = ("--corpus.max_broken", "0", "--num_steps", "40", "--num_workers", num_workers)
    assert main([*settings, "--out", str(out), *options]) == 1
    said = capsys.readouterr().err
    assert "broken, more than the share of 0 that corpus.max_broken allows" in said
    assert "Traceback" not in said
    assert '"event": "stopped"' in (out / "log.jsonl").read_text()


def test_wrong_data_gets_a_sentence(settings, tmp_path, capsys):
    for options, sentence in (
        (["--corpus.tokenizer_file", "/no/file"], "tokenizer_file is '/no/file'"),
        (["--corpus.row_tokens", "4"], "an image alone needs"),
    ):
        assert main([*settings, "--out", str(tmp_path / "x"), *options]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
