import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from demo_fakes import NUM_CONCEPTS, SIDE_PX, WORLD, perfect_answer
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from trainer.config import UsageError
from trainer.data.emoji.tasks import documents
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.evaluate import Settings, describe_weights, evaluate, grade, main, to_model, world_of
from trainer.exams import EXAMS
from trainer.recipes import DEFAULT_RECIPE, RECIPES


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("run") / "model"
    processor = MMInterleavedProcessor(load_tokenizer(), image_size=32)
    MMInterleaved(MMInterleavedConfig.tiny(), processor).save_pretrained(directory)
    return directory


def test_a_model_is_examined_in_every_task(model_dir: Path) -> None:
    model = MMInterleaved.from_pretrained(model_dir)
    settings = Settings(tasks=tuple(EXAMS), num_texts=1, num_pictures=1, num_steps=1, num_concepts=NUM_CONCEPTS)
    lines: list[str] = []
    result = evaluate(model, settings, weights=describe_weights(model_dir, model), progress=lines.append)
    assert list(result.tasks) == list(EXAMS)
    assert len(lines) == len(EXAMS)
    assert lines[-1].endswith("0:00 left")
    for task, examined in result.tasks.items():
        [answered] = examined.answered
        assert isinstance(answered.answer, str if EXAMS[task].kind == "text" else PILImage.Image)
        assert answered.document.key == f"emoji/{task}/val/0"
        assert all(0 <= score.mean <= 1 and score.ceiling == 1 for score in examined.scores.values())
    again = evaluate(model, replace(settings, tasks=("draw",)), weights={})
    one, other = (np.asarray(r.tasks["draw"].answered[0].answer) for r in (result, again))
    assert (one == other).all(), "equal seeds draw equal pictures"


def test_the_command_writes_all_that_is_needed_to_do_it_again(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "scores.json"
    arguments = [
        "--tasks",
        "read",
        "draw",
        "--count",
        "2",
        "--num_steps",
        "1",
        "--seed",
        "5",
        "--num_workers",
        "1",
        "--out",
        str(file),
    ]
    assert main([str(model_dir), *arguments]) == 0
    assert "exact number" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert set(written["tasks"]) == {"read", "draw"}
    assert [one["key"] for one in written["tasks"]["read"]["documents"]] == ["emoji/read/val/0", "emoji/read/val/1"]
    assert len(written["tasks"]["draw"]["documents"]) == 1
    assert len(written["weights"]["sha256"]) == 64
    model = MMInterleaved.from_pretrained(model_dir)
    here = evaluate(model, Settings(**{**written["settings"], "tasks": ("read",)}), weights={}).to_dict()
    assert here["tasks"]["read"]["documents"] == written["tasks"]["read"]["documents"], "a worker answers the same"
    assert (written["settings"]["seed"], written["settings"]["guidance_scale"]) == (5, Settings.guidance_scale)
    assert written["environment"]["torch"] == torch.__version__
    assert {"mean", "standard_error", "chance", "ceiling", "num_documents"} == set(
        written["tasks"]["read"]["scores"]["number"]
    )


@pytest.mark.parametrize("task", EXAMS)
def test_right_answers_earn_1_and_those_of_other_documents_the_chance_level(task: str) -> None:
    exam = EXAMS[task]
    asked = documents(task, "val", 0, 6, options=WORLD)
    right = [perfect_answer(document) for document in asked]
    perfect = grade(exam, asked, right, num_concepts=NUM_CONCEPTS, side_px=SIDE_PX)
    assert all(one.right for one in perfect.answered)
    for score in perfect.scores.values():
        assert score.ceiling == 1
        assert score.mean == pytest.approx(1, abs=0.01)  # a picture has 256 levels a channel, its truth more
    shifted = [
        grade(exam, asked, right[shift:] + right[:shift], num_concepts=NUM_CONCEPTS, side_px=SIDE_PX).scores
        for shift in range(1, 5)
    ]
    headline = next(iter(exam.labels))
    if task != "compare":  # there, answers to the other kind of question are left out of chance
        chance = perfect.scores[headline].chance
        assert chance is not None
        if exam.kind == "picture":
            assert chance == pytest.approx(np.mean([scores[headline].mean for scores in shifted]))
        assert chance < 0.5


def test_pictures_are_averaged_down_as_in_training() -> None:
    [document] = documents("caption", "val", 0, 1)
    picture, text = to_model(document.segments[:2], 32)
    assert text == document.segments[1].text
    assert isinstance(picture, PILImage.Image)
    assert picture.size == (32, 32)
    block = document.segments[0].pixels[:2, :2].astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(np.asarray(picture)[0, 0], block, atol=0.5)


def test_the_world_is_that_of_the_run(model_dir: Path, tmp_path: Path) -> None:
    assert world_of(tmp_path / "model", None) == RECIPES[DEFAULT_RECIPE]().data
    settings = tmp_path / "config.yaml"
    settings.write_text("recipe: tiny\ndata:\n  num_concepts: 24\n")
    assert world_of(tmp_path / "model", None).num_concepts == 24
    assert world_of(model_dir, settings).num_concepts == 24


def test_wrong_use_is_explained(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    assert main([str(model_dir), "--tasks", "sing"]) == 2
    assert "expected some of caption" in capsys.readouterr().err
    with pytest.raises(UsageError, match="num_texts is 0"):
        Settings(num_texts=0)
