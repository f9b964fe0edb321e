"""A run on real data that is killed, and goes on with other numbers of processes."""

import json
from functools import partial

import pytest

import processes
from recorded_batches import batches, train
from trainer.logging.log_file import read_log
from trainer.step import checkpoint

NUM_STEPS, NUM_ROWS = 8, 4


@pytest.fixture
def options(shards) -> list[str]:
    """Pairs and documents, small enough that every epoch is another order."""
    captions = shards.pairs("captions.tar", [f"a snail with number {n}" for n in range(20)])
    images = shards.folder("images", {"a.png": shards.image_bytes(50)})
    row = {"segments": [{"text": "One image"}, {"image": "a.png"}, {"text": "of a snail."}]}
    sources = {
        "captions": {"manifest": shards.manifest(captions), "few_shot": 0.5},
        "documents": {"manifest": shards.manifest(shards.jsonl("a.jsonl", [row]), images=[images]), "split": True},
    }
    corpus = {"sources": sources, "num_rows": NUM_ROWS, "row_tokens": 96}
    file = shards.root / "corpus.yaml"
    file.write_text(json.dumps({"corpus": corpus, "encoder_pretraining": {"num_steps": 0}, "num_steps": NUM_STEPS}))
    return ["tiny", "--config", str(file), "--checkpoint.every", "3", "--num_threads", "1"]


@pytest.mark.slow  # importing everything for several processes
def test_the_same_batches_bit_for_bit_and_the_same_losses(options, tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    assert train(str(alone), options) == 0
    codes = processes.run(partial(train, str(killed), options, (1, 5, "SIGKILL")), 2)
    assert codes[1] == -9
    assert checkpoint.find_latest(killed / "checkpoints").step == 3
    assert processes.run(partial(train, str(killed), options, (2, 5, "SIGTERM")), 4) == [3] * 4
    assert 5 <= checkpoint.find_latest(killed / "checkpoints").step <= 6
    assert train(str(killed), options) == 0

    made = batches(alone)
    assert made.keys() == {(step, row) for step in range(NUM_STEPS) for row in range(NUM_ROWS)}
    assert len({next(iter(hashes)) for hashes in made.values()}) == len(made), "rows differ"
    assert batches(killed) == made
    for name in ("loss", "loss_text", "loss_image"):
        losses, expected = (
            {record["step"]: record[name] for record in read_log(run) if "event" not in record}
            for run in (killed, alone)
        )
        assert losses == pytest.approx(expected, rel=1e-6), name
