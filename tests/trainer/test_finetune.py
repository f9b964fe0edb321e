"""`python -m trainer.finetune`: whole runs with the smallest model, and the toy's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from trainer.finetune import main, parse_task
from trainer.metrics import read_log
from trainer.recipes import FINETUNING, tiny
from trainer.starting_model import make_model


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "model"
    make_model(tiny()).save_pretrained(directory)
    return directory


@pytest.fixture
def questions(shards) -> str:
    """The manifest of eight questions."""
    images = shards.folder("images", {f"{n}.png": shards.picture(n) for n in range(8)})
    rows = [{"image": f"{n}.png", "question": "How many?", "answer": str(n)} for n in range(8)]
    return shards.manifest(shards.jsonl("questions.jsonl", rows), images=[images])


def test_a_model_is_taught_to_answer(tiny_model, questions, tmp_path):
    out = tmp_path / "run"
    options = ["--corpus.sources.vqa.manifest", questions, "--corpus.num_rows", "1", "--corpus.row_tokens", "192"]
    sizes = ["--model.vision.image_size", "[48,48]", "--num_steps", "2", "--num_workers", "0", "--num_threads", "1"]
    assert main(["vqa", "--init", str(tiny_model), "--out", str(out), *options, *sizes]) == 0
    steps = [record for record in read_log(out) if "event" not in record]
    assert all(step["loss_text"] > 0 and step["loss_image"] is None for step in steps)
    before, after = (MMInterleaved.from_pretrained(path) for path in (tiny_model, out / "model"))
    assert after.config.vision.picture_shape == (48, 48)
    moved = {
        name.split(".")[0]
        for (name, left), right in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(left, right)
    }
    assert moved == {"visual_tokenizer", "language_model", "begin_of_image"}


def test_settings_are_the_tables_for_the_given_model(tiny_model):
    command = parse_task(["vqa", "--init", str(tiny_model), "--optim.eps", "1e-7"])
    model = command.config.model
    assert model.language_model.transformer["hidden_size"] == 32
    assert model.vision.picture_shape == (448, 448)
    assert (command.config.optim.lr, command.config.optim.eps) == (1e-5, 1e-7)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Which task? Expected one of vqa, rec"),
        (["caption"], "There is no task 'caption'. Tasks: vqa"),
        (["vqa"], "--init MODEL_DIR"),
        (["vqa", "--init", "/nowhere"], "holds no config.json"),
        (["vqa", "--init", "trainer/weights/toy"], "corpus.sources.vqa has no data yet"),
    ],
)
def test_wrong_use_gets_a_sentence(arguments, sentence, tmp_path, capsys):
    assert main([*arguments, *(["--out", str(tmp_path / "x")] if arguments else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m trainer.finetune: ")
    assert sentence in said
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in FINETUNING if name.startswith("toy_")])
def test_toy_twins_run(task, tmp_path):
    out = tmp_path / "run"
    assert main([task, "--out", str(out), "--num_steps", "2", "--num_workers", "0", "--data.num_rows", "2"]) == 0
    draws = task in ("toy_seg2img", "toy_story", "toy_instruct")
    steps = [record for record in read_log(out) if "event" not in record]
    assert len(steps) == 2
    assert any(step["loss_image"] for step in steps) == draws
    assert all(step["loss_text"] > 0 for step in steps)
    MMInterleaved.from_pretrained(out / "model")
