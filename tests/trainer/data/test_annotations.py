"""Published annotations, in small, as rows that the tasks read."""

from __future__ import annotations

import json

import pytest

from trainer.data.annotations import main
from trainer.data.sources.tasks import CAPTION_QUESTION, task_segments

VIST = [
    [{"story_id": "7", "worker_arranged_photo_order": order, "photo_flickr_id": f"p{order}", "text": f"Part {order}."}]
    for order in (1, 0)
]
FILES = {
    "vqav2": (
        {"data_subtype": "val2014", "questions": [{"question_id": 3, "image_id": 9, "question": "What is it?"}]},
        {
            "data_subtype": "val2014",
            "annotations": [{"question_id": 3, "image_id": 9, "multiple_choice_answer": "a snail"}],
        },
    ),
    "coco_captions": (
        {"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [{"image_id": 9, "caption": "A snail."}]},
    ),
    "llava": ([{"id": "x", "image": "9.jpg", "conversations": [{"from": "human", "value": "<image>\nHi"}]}],),
    "vist": ({"annotations": VIST},),
}
ROWS = {
    "vqav2": {"image": "COCO_val2014_000000000009.jpg", "question": "What is it?", "answer": "a snail"},
    "coco_captions": {"image": "9.jpg", "question": CAPTION_QUESTION, "answer": "A snail."},
    "llava": {"image": "9.jpg", "conversations": [{"from": "human", "value": "<image>\nHi"}]},
    "vist": {"story": [{"text": "Part 0.", "image": "p0.jpg"}, {"text": "Part 1.", "image": "p1.jpg"}]},
}


@pytest.mark.parametrize("kind", FILES)
def test_annotations_become_rows(kind, tmp_path, capsys):
    files = []
    for number, content in enumerate(FILES[kind]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    out = tmp_path / "rows.jsonl"
    assert main([kind, *map(str, files), "--out", str(out)]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [ROWS[kind]]
    assert "1 rows" in capsys.readouterr().out
    if kind != "llava":  # whose only turn here has no answer
        assert task_segments(ROWS[kind])


@pytest.mark.parametrize(("content", "sentence"), [("{", "cannot be read"), ("{}", "is not what vqav2 looks like")])
def test_other_files_are_named_and_nothing_is_left(content, sentence, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(content)
    assert main(["vqav2", str(file), "--out", str(tmp_path / "rows.jsonl")]) == 2
    assert sentence in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.json"}
