import json

import pytest

from trainer.benchmarks.predictions import Answered, append, given_images, ordered, read_all, read_given
from trainer.benchmarks.sample import Sample
from trainer.errors import UsageError

SAMPLES = [Sample("1", ("a",)), Sample("2", ("b",)), Sample("x/3", ("c",))]
IDS = {sample.id for sample in SAMPLES}


def test_what_is_written_is_read(tmp_path) -> None:
    written = [
        Answered("1", "text\r\nwith \u2028 lines", 0.5, "end"),
        Answered("2", [0.1, float("-inf")]),
        Answered("x/3", ""),
    ]
    append(tmp_path / "predictions-0.jsonl", written[:2])
    append(tmp_path / "predictions-1.jsonl", written[2:])
    assert list(read_all(tmp_path, IDS).values()) == written
    samples, predictions = ordered(SAMPLES, read_all(tmp_path, IDS))
    assert [sample.id for sample in samples] == ["1", "2", "x/3"]
    assert predictions == [one.prediction for one in written]


def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path) -> None:
    file = tmp_path / "predictions-0.jsonl"
    append(file, [Answered("1", "a")])
    whole = file.read_bytes()
    with file.open("ab") as stream:
        stream.write(b'{"id": "2", "predic')
    assert list(read_all(tmp_path, IDS)) == ["1"]
    assert file.read_bytes() == whole
    append(file, [Answered("2", "b")])
    assert list(read_all(tmp_path, IDS)) == ["1", "2"]


def test_the_later_of_two_lines_counts(tmp_path) -> None:
    append(tmp_path / "predictions-0.jsonl", [Answered("1", "a"), Answered("1", "b")])
    assert read_all(tmp_path, IDS)["1"].prediction == "b"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "9", "prediction": "a"}', "line 1: '9' is none of the split's samples"),
        ("[]", "line 1: this is no prediction"),
        ('{"id": "1"}', "line 1: this is no prediction"),
        ('{"id": "1", "prediction": 3}', "line 1: this is no prediction"),
        ('{"id": "1", "prediction": ["a"]}', "line 1: this is no prediction"),
        ("nonsense", "line 1: this is no prediction"),
    ],
)
def test_damaged_lines_are_refused(tmp_path, line, message) -> None:
    (tmp_path / "predictions-0.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=message):
        read_all(tmp_path, IDS)


@pytest.mark.parametrize(
    "content",
    [
        '[{"question_id": 1, "answer": "a"}, {"question_id": 2, "answer": "b"}]',
        '[{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]',
        '[{"questionId": "1", "prediction": "a"}, {"questionId": "2", "prediction": "b"}]',
        '\ufeff[{"image": "1", "answer": "a"}, {"image": "2", "answer": "b"}]',
        '{"id": "1", "prediction": "a"}\n\n{"id": "2", "prediction": "b"}\n',
    ],
)
def test_predictions_of_other_programs(tmp_path, content) -> None:
    file = tmp_path / "given.json"
    file.write_text(content, encoding="utf-8")
    assert {key: one.prediction for key, one in read_given(file, SAMPLES).items()} == {"1": "a", "2": "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"id": "1", "prediction": "a"}] * 2, "entry 1: '1' stands twice"),
        ([{"id": "7", "prediction": "a"}], "entry 0: '7' is none of the split's samples"),
        ([{"id": "1"}], "entry 0: expected an object with an id"),
        ([{"id": "1", "prediction": None}], "entry 0: expected an object"),
        ([3], "entry 0: expected an object"),
        ("a", "entry 0: expected an object"),
    ],
)
def test_given_files_that_are_refused(tmp_path, content, message) -> None:
    file = tmp_path / "given.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        read_given(file, SAMPLES)


def test_given_files_that_cannot_be_read(tmp_path) -> None:
    file = tmp_path / "given.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_given(file, SAMPLES)
    file.write_text('{"id": "1", "prediction": "a"}\n{"id"')
    with pytest.raises(UsageError, match="line 2: this is no JSON"):
        read_given(file, SAMPLES)


def test_images_of_any_program(tmp_path) -> None:
    samples = [Sample("a/b", ("text",)), Sample("2", ("text",))]
    with pytest.raises(UsageError, match="is no folder; expected one of images named"):
        given_images(tmp_path / "none", samples)
    (tmp_path / "a%2Fb.jpg").touch()
    with pytest.raises(UsageError, match=r"lacks images of 1 of 2 samples, the first 2\.png"):
        given_images(tmp_path, samples)
    (tmp_path / "2.png").touch()
    assert given_images(tmp_path, samples) == {"a/b": tmp_path / "a%2Fb.jpg", "2": tmp_path / "2.png"}
    (tmp_path / "2.webp").touch()
    with pytest.raises(UsageError, match=r"has 2\.png and 2\.webp; expected one image"):
        given_images(tmp_path, samples)
