import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.demo import SAMPLE_TASKS, Options, main, run_of, tell, training_arguments, training_facts, write_samples
from trainer.evaluate import Settings
from trainer.options import parse
from trainer.recipes import DEFAULT_RECIPE, RECIPES

SETTINGS = Settings(num_steps=1)


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    torch.manual_seed(0)
    return MMInterleaved(MMInterleavedConfig.tiny(), MMInterleavedProcessor(load_tokenizer(), image_size=32)).eval()


def test_the_training_goes_on_from_the_given_weights() -> None:
    arguments = training_arguments(Options(Path("runs/x"), Path("some/weights"), minutes=2.5, quick=False))
    command = parse(arguments, RECIPES, DEFAULT_RECIPE)
    assert command.resume == "auto"
    assert (command.config.init, command.config.max_minutes) == ("some/weights", 2.5)
    assert command.config.encoder_pretraining.num_steps == 0
    scratch = parse(
        training_arguments(Options(Path("runs/x"), None, minutes=None, quick=True)), RECIPES, DEFAULT_RECIPE
    )
    assert scratch.config.init is None
    assert scratch.config.encoder_pretraining.num_steps > 0
    assert scratch.config.num_steps < 10


def test_weights_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "--from none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_how_the_weights_were_made_is_read_from_beside_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert training_facts(None) is training_facts(tmp_path) is None
    (tmp_path / "training.json").write_text('{"command": "python -m trainer.pretrain toy_scratch"}')
    assert training_facts(tmp_path) == {"command": "python -m trainer.pretrain toy_scratch"}


def test_samples_are_real_documents_in_the_form_that_the_export_reads(model: MMInterleaved, tmp_path: Path) -> None:
    write_samples(model, SETTINGS, tmp_path / "samples")
    listed = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert len(listed) == len(SAMPLE_TASKS)
    assert listed[0][1] == {"text": " a photo of"}
    kinds = [kind for document in listed for segment in document for kind in segment]
    assert kinds.count("image") == 8
    for document in listed:
        for segment in document:
            if "image" in segment:
                with PILImage.open(tmp_path / "samples" / segment["image"]) as picture:
                    assert picture.size == (64, 64)
                    assert np.asarray(picture).std() > 0


def test_a_story_goes_on_from_its_first_sentence(model: MMInterleaved) -> None:
    stories = list(tell(model, SETTINGS, num_stories=2))
    assert len(stories) == 2
    assert stories[0].prompt != stories[1].prompt
    for story in stories:
        assert len(story.prompt) == 1
        assert all(isinstance(piece, str | PILImage.Image) for piece in story.written)


def test_losses_come_from_the_main_training_alone(tmp_path: Path) -> None:
    records = [
        {"event": "start"},
        {"phase": "encoder", "step": 1, "loss_objects": 3.0},
        {"phase": "main", "step": 1, "loss_text": 5.0, "loss_image": None},
        {"phase": "main", "step": 2, "loss_text": 4.0, "loss_image": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = run_of("a run", tmp_path)
    assert (run.text.steps, run.text.values) == ((1, 2), (5.0, 4.0))
    assert (run.image.steps, run.image.values) == ((2,), (0.5,))


@pytest.mark.slow
def test_the_whole_demo_runs_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--from", "none", "--out", str(tmp_path / "demo")]) == 0
    page = (tmp_path / "demo" / "index.html").read_text()
    manifest = json.loads((tmp_path / "demo" / "export" / "manifest.json").read_text())
    assert all(name in page for name in manifest["components"])
    assert "from random weights" in page
    assert "wrote" in capsys.readouterr().out
