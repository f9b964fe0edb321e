"""What rows of tables mean."""

from __future__ import annotations

import pytest

from trainer.data.sources.rows import read_row
from trainer.data.sources.sample import BrokenSampleError


def find(name):
    return None if name == "missing" else (name, 0, 1)


def seen(row):
    record = read_row(row, find)
    images = [(at[0], text, similarity) for at, text, similarity in record.images]
    return record.texts, images, record.fixed_order, record.num_missing


def test_mmc4(shards):
    images = [("b", 2, 0.3), ("missing", 0, 0.3), ("a", 0, 0.25), ("c", 2, 0.2)]
    assert seen(shards.mmc4_row(["One.", " two\n", "3"], images)) == (
        *(["One.", "two", "3"], [("a", 0, 0.25), ("b", 2, 0.3), ("c", 2, 0.2)], False, 1),
    )


def test_obelics():
    row = {"texts": [None, "One.", None, "Two.", None], "images": ["a", None, "missing", None, "b"]}
    assert seen(row) == (["One.", "Two."], [("a", 0, None), ("b", 2, None)], True, 1)


def test_segments():
    row = {"segments": [{"text": "One."}, {"image": "a"}, {"image": "b"}, {"text": "Two."}]}
    assert seen(row) == (["One.", "Two."], [("a", 1, None), ("b", 1, None)], True, 0)


@pytest.mark.parametrize("field", ["caption", "text"])
def test_a_pair(field):
    assert seen({"image": "a", field: "a snail"}) == (["a snail"], [("a", 0, None)], False, 0)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (["a"], "is a list; expected an object"),
        ({"url": "x"}, r"keys \['url'\]; expected text_list"),
        ({"text_list": ["a"]}, "KeyError: 'image_info'"),
        ({"text_list": [3], "image_info": []}, "A text is 3; expected a text"),
        (
            {"text_list": ["a"], "image_info": [{"image_name": "a", "matched_text_index": 1, "matched_sim": 1}]},
            "belongs to text 1; there are 1",
        ),
        ({"texts": ["a"], "images": [None, "b"]}, "zip"),
        ({"segments": [{"sound": "a"}]}, "KeyError: 'image'"),
        ({"image": "a", "caption": None}, r"keys \['image'\]; expected"),
    ],
)
def test_a_row_of_another_form_is_told(row, sentence):
    with pytest.raises(BrokenSampleError, match=sentence):
        read_row(row, find)
