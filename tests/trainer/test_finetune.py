"""`python -m trainer.finetune`: whole runs with the smallest model, and the toy's."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from trainer.data.index import main as index
from trainer.errors import UsageError
from trainer.finetune import main, parse_task
from trainer.logging.log_file import read_log
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
    images = shards.folder("images", {f"{n}.png": shards.image_bytes(n) for n in range(8)})
    rows = [{"image": f"{n}.png", "question": "How many?", "answer": str(n)} for n in range(8)]
    return shards.manifest(shards.jsonl("questions.jsonl", rows), images=[images])


def test_a_model_is_taught_to_answer(tiny_model, questions, tmp_path):
    out = tmp_path / "run"
    options = ["--manifest", questions, "--corpus.num_rows", "1", "--corpus.row_tokens", "192"]
    sizes = [
        "--model.visual_tokenizer.image_size",
        "[48,48]",
        "--num_steps",
        "2",
        "--num_workers",
        "0",
        "--num_threads",
        "1",
    ]
    whole = ["--precision", "float32", "--parallel.gather_dtype", "float32"]  # else what is frozen is rounded
    assert main(["vqa", "--init", str(tiny_model), "--out", str(out), *options, *sizes, *whole]) == 0
    steps = [record for record in read_log(out) if "event" not in record]
    assert all(step["loss_text"] > 0 and step["loss_image"] is None for step in steps)
    before, after = (MMInterleaved.from_pretrained(path) for path in (tiny_model, out / "model"))
    assert after.config.image_size == (48, 48)
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
    assert model.image_size == (448, 448)
    assert (command.config.optim.lr, command.config.optim.eps) == (1e-5, 1e-7)


def test_the_manifest_is_an_option_of_recipes_with_one_source(tiny_model, tmp_path, capsys):
    command = ["rec", "--init", str(tiny_model), "--manifest", "data/rec"]
    source = parse_task(command).config.corpus.sources["rec"]
    assert (source.manifest, source.fit) == ("data/rec", "squeeze")
    file = tmp_path / "two.yaml"
    file.write_text(json.dumps({"corpus": {"sources": {"a": {"manifest": "x"}, "b": {"manifest": "y"}}}}))
    with pytest.raises(UsageError, match="--manifest is of one source; the corpus has a, b"):
        parse_task([*command, "--config", str(file)])
    with pytest.raises(UsageError, match="manifest"):
        parse_task(["toy_rec", "--manifest", "x"])
    with pytest.raises(SystemExit):
        parse_task([*command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Short for corpus.sources.rec.manifest" in said
    assert "torchrun --nproc-per-node N -m trainer.finetune" in said


def test_help_calls_its_argument_a_task_also_after_a_file(tmp_path, capsys):
    file = tmp_path / "some.yaml"
    file.write_text("recipe: toy_rec\n")
    for arguments in (["--help"], ["toy_rec", "--help"], ["--config", str(file), "--help"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith("usage: python -m trainer.finetune TASK [--config FILE]")
        assert "TASK is one of: vqa: " in said
        assert "-m trainer.finetune TASK ..." in said
        assert "[RECIPE]" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Which task? Expected one of vqa, rec"),
        (["caption"], "There is no task 'caption'. Tasks: vqa"),
        (["vqa"], "--init MODEL_DIR"),
        (["vqa", "--init", "/nowhere"], "holds no config.json"),
        (["vqa", "--init", "trainer/weights/toy"], "corpus.sources.vqa has no data yet"),
        (["vqa", "--init", "trainer/weights/toy", "--manifest", "/nowhere"], "/nowhere holds no complete manifest"),
    ],
)
def test_wrong_use_gets_a_sentence(arguments, sentence, tmp_path, capsys):
    assert main([*arguments, *(["--out", str(tmp_path / "x")] if arguments else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m trainer.finetune: ")
    assert sentence in said
    assert not (tmp_path / "x").exists()


def test_boxes_are_learned_in_whole_images_and_shown(tiny_model, shards, tmp_path):
    """From the published files to a sheet of held-out samples and a model that has its images squeezed."""
    folder = tmp_path / "refcoco"
    folder.mkdir()
    numbers = range(6)
    references = [
        {"ref_id": n, "ann_id": n, "image_id": n, "split": "train", "sentences": [{"sent": f"number {n}"}]}
        for n in numbers
    ]
    instances = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 50, "height": 40} for n in numbers],
        "annotations": [{"id": n, "bbox": [n, n, 20, 10]} for n in numbers],
    }
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, 2))
    (folder / "instances.json").write_text(json.dumps(instances))
    images = shards.folder("images", {f"{n}.png": shards.image_bytes(n) for n in numbers})
    data, out = tmp_path / "data", tmp_path / "run"
    assert index([str(folder), "--form", "refcoco", "--images", str(images), "--out", str(data)]) == 0
    sizes = ["--corpus.num_rows", "1", "--corpus.row_tokens", "192", "--corpus.sources.rec.held_out", "2"]
    run = [
        "--num_steps",
        "1",
        "--logging.sample_every",
        "1",
        "--num_workers",
        "0",
        "--num_threads",
        "1",
        "--out",
        str(out),
    ]
    assert main(["rec", "--init", str(tiny_model), "--manifest", str(data), *sizes, *run]) == 0
    assert [file.name for file in (out / "samples").iterdir()] == ["0000001.png"]
    processor = MMInterleaved.from_pretrained(out / "model").processor
    assert (processor.fit, processor.height) == ("squeeze", 32)
    assert MMInterleaved.from_pretrained(tiny_model).processor.fit == "crop"


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
