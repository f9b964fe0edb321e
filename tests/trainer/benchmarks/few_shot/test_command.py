"""In-context examples, as a user asks for them."""

import json
import shutil

import pytest
from PIL import Image as PILImage

from tiny_judges import write_clip
from trainer.benchmarks.all import BENCHMARKS
from trainer.benchmarks.answering import Asking, answers_in_words
from trainer.benchmarks.few_shot.examples import Examples
from trainer.evaluate import main

TRAINED = ["coco_caption", "flickr30k", "nocaps", "image2paragraph", "vqav2", "okvqa", "gqa", "vizwiz", "textvqa"]


class Listener:
    """A model that keeps what it is asked."""

    def __init__(self, config) -> None:
        self.config = config
        self.documents: list = []

    def generate(self, documents, **options):
        self.documents += documents
        return [type("Result", (), {"text": "", "finish_reason": "stop"}) for _ in documents]


def test_an_example_is_its_prompt_and_its_answer(data, shipped) -> None:
    benchmark = BENCHMARKS["okvqa"]
    [first, second, *_] = benchmark.open_training(data).samples[::2]
    asked = benchmark.open(data, "val").samples[0]
    assert benchmark.target is not None
    examples = Examples({asked.id: [first, second]}, benchmark.target)
    listener = Listener(shipped.config)
    [[answered]] = answers_in_words(listener, iter([[asked]]), Asking("question", {}, examples))  # type: ignore[arg-type]
    assert answered.id == asked.id
    [document] = listener.documents
    assert [isinstance(segment, PILImage.Image) for segment in document] == [False, True] * 3 + [False]
    before = "Based on the image, please answer the question. "
    behind = " Please provide an accurate answer within one word. The answer is:"
    assert document[0] == before
    assert document[2] == f"{first.document[1]}{behind} {benchmark.target(first)}\n{before}"
    assert document[4] == f"{second.document[1]}{behind} {benchmark.target(second)}\n{before}"
    assert document[6] == f"{asked.document[1]}{behind}"


def test_every_benchmark_with_a_training_split_is_asked_with_examples(data, shipped_dir, tmp_path, capsys) -> None:
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu", "--num-shots", "2"]
    arguments += ["--examples", "random", "--limit", "2", "--num-beams", "1"]
    assert main(["--check", "--benchmark", *TRAINED, *arguments]) == 0
    assert "examples: 8 training samples" in capsys.readouterr().out
    assert main([str(shipped_dir), "--benchmark", *TRAINED, *arguments]) == 0
    shown = capsys.readouterr()
    assert "okvqa: 2-shot, examples chosen at random" in shown.out
    assert "2 answers of up to 10 tokens with 1 beams behind 4 examples" in shown.err
    settings = json.loads((tmp_path / "out/okvqa/settings.json").read_text())
    assert settings["examples"] | {"annotations": {}} == {
        "number": 2,
        "selection": "random",
        "seed": 0,
        "annotations": {},
        "separator": "\n",
    }
    assert len(settings["examples"]["annotations"]) == 2
    assert {name for name, one in BENCHMARKS.items() if one.training} == set(TRAINED)


def test_the_most_similar_images_by_clip(data, shipped_dir, tmp_path, capsys) -> None:
    clip = write_clip(tmp_path / "clip")
    common = [str(shipped_dir), "--benchmark", "okvqa", "--data", str(data), "--device", "cpu", "--num-beams", "1"]
    arguments = [*common, "--out", str(tmp_path / "out"), "--clip", str(clip)]
    assert main([*arguments, "--num-shots", "2"]) == 0
    [features] = (tmp_path / "out/image_features").glob("*/*.npy")
    written = features.stat().st_mtime_ns
    assert main([*arguments, "--num-shots", "2"]) == 0
    assert features.stat().st_mtime_ns == written, "features were computed again"
    capsys.readouterr()
    assert main([*arguments, "--num-shots", "1"]) == 2
    assert "was begun with examples.number 2, and now it is 1" in capsys.readouterr().err
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert main([*arguments, "--num-shots", "2"]) == 2
    assert "was begun with examples.clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["visdial", "--num-shots", "2", "--examples", "random"], "visdial is asked without in-context examples"),
        (["okvqa", "--num-shots", "2"], "--clip DIR finds the examples with the most similar images"),
        (["okvqa", "--num-shots", "4", "--examples", "random"], "the training samples show 4 images"),
        (["okvqa", "--num-shots", "-1"], "--num-shots is -1; expected 0 or more"),
        (["okvqa", "--num-shots", "1", "--predictions", "file"], "predictions in a file were asked for already"),
    ],
)
def test_wrong_use(arguments, message, data, shipped_dir, tmp_path, capsys) -> None:
    common = ["--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]
    try:
        status = main([str(shipped_dir), "--benchmark", *arguments, *common])
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


def test_missing_training_files_are_told_before_anything_runs(data, tmp_path, capsys) -> None:
    shutil.copytree(data / "gqa", tmp_path / "gqa")
    arguments = ["nowhere", "--benchmark", "gqa", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    arguments += ["--num-shots", "1", "--examples", "random"]
    (tmp_path / "gqa/images/n1001.jpg").unlink()
    assert main(arguments) == 2
    assert "gqa (train): 1 of 4 images are missing" in capsys.readouterr().err
    (tmp_path / "gqa/train_balanced_questions.json").unlink()
    assert main(arguments) == 2
    assert "gqa (train) needs in" in capsys.readouterr().err
