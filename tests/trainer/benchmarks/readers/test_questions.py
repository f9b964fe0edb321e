import json

import pytest

from trainer.benchmarks.all import BENCHMARKS
from trainer.benchmarks.readers.questions import read_gqa, read_textvqa, read_vizwiz, read_vqa_form
from trainer.errors import UsageError


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_vqa_form(data) -> None:
    split = BENCHMARKS["vqav2"].open(data, "val")
    first = split.samples[0]
    assert first.id == "10"
    assert first.images[0].path.name == "COCO_val2014_000000000001.jpg"
    assert first.document[1].startswith("what colour is behind")
    assert len(first.truth["answers"]) == 10
    assert first.truth["answer type"] == "other"
    assert split.samples[0].group == split.samples[1].group != split.samples[2].group


def test_answers_that_only_the_server_knows(data) -> None:
    for name, split in (("vqav2", "test-dev"), ("vizwiz", "test")):
        found = BENCHMARKS[name].open(data, split)
        assert not found.is_scored
        assert not found.samples[0].truth


def test_a_question_without_answers(tmp_path) -> None:
    questions = written(
        tmp_path / "q.json", {"questions": [{"question_id": 1, "image_id": 2, "question": "what is it?"}]}
    )
    annotations = written(tmp_path / "a.json", {"annotations": []})
    with pytest.raises(UsageError, match=r"a\.json has no answers to question 1, which q\.json asks"):
        read_vqa_form(questions, annotations, tmp_path, "val", None, "{:012d}.jpg")


def test_only_balanced_questions_of_gqa_count(tmp_path) -> None:
    one = {
        "question": "is it?",
        "imageId": "n1",
        "answer": "yes",
        "isBalanced": True,
        "types": {"structural": "verify"},
    }
    file = written(tmp_path / "gqa.json", {"7": one, "8": {**one, "isBalanced": False}})
    [sample] = read_gqa(file, tmp_path, "testdev", None).samples
    assert (sample.id, sample.truth["answer type"]) == ("7", "binary")
    without = {name: value for name, value in one.items() if name != "types"}
    with pytest.raises(UsageError, match="question 9: it has no 'types'"):
        read_gqa(written(tmp_path / "b.json", {"9": without}), tmp_path, "testdev", None)
    with pytest.raises(UsageError, match="holds a list; expected questions by their id"):
        read_gqa(written(tmp_path / "c.json", []), tmp_path, "testdev", None)


def test_vizwiz_is_known_by_its_images(data) -> None:
    split = read_vizwiz(data / "vizwiz/val.json", data / "vizwiz/val", "val", 4319)
    assert split.samples[0].id == "VizWiz_val_00000001.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": []}, "has no question"),
        ({"data": [{"question_id": 1, "question": "q", "image_id": "a", "answers": []}]}, "question 1 has no answer"),
        ({"data": [{"question_id": 1, "question": "q", "image_id": 5, "answers": ["a"]}]}, "entry 0: 5 stands where"),
        ({"data": [{"question_id": 1, "question": "q", "image_id": "a", "answers": ["b"] * 10}] * 2}, "stands twice"),
    ],
)
def test_files_of_another_form(tmp_path, content, message) -> None:
    with pytest.raises(UsageError, match=message):
        read_textvqa(written(tmp_path / "a.json", content), tmp_path, "val", None)
