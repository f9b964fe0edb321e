from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.scorers.cider import cider, cider_of_tokens

Official = Callable[[str], Any]

ROUNDING = 1e-8
"""The official figures have ten digits, and eight after the point for each image."""


@pytest.mark.parametrize("name", ["captions", "captions_ugly"])
def test_the_official_score(official: Official, name: str) -> None:
    found = official(name)
    scores = cider(found["predictions"], found["references"])
    assert scores.mean() == pytest.approx(found["scores"]["CIDEr"], abs=1e-9)
    assert np.abs(scores - found["cider_per_image"]).max() < ROUNDING


def test_a_part_of_a_split_is_another_metric(official: Official) -> None:
    found = official("captions")
    first = found["first_100_images_alone"]
    scores = cider(found["predictions"][:100], found["references"][:100])
    assert scores.mean() == pytest.approx(first["scores"]["CIDEr"], abs=1e-9) != found["scores"]["CIDEr"]
    assert np.abs(scores - first["cider_per_image"]).max() < ROUNDING
    assert cider(found["predictions"][:1], found["references"][:1]) == found["first_image_alone"]["CIDEr"] == 0


def test_the_tokenizer_is_half_of_it(official: Official) -> None:
    found = official("captions")
    for name, split in (
        ("without_the_tokenizer", str.split),
        ("lower_case_and_white_space_only", lambda text: text.lower().split()),
    ):
        captions = [split(text) for text in found["predictions"]]
        references = [[split(text) for text in texts] for texts in found["references"]]
        assert cider_of_tokens(captions, references).mean() == pytest.approx(found[name]["CIDEr"], abs=1e-9), name


def test_a_caption_that_is_a_reference(official: Official) -> None:
    found = official("captions")
    scores = cider([texts[0] for texts in found["references"]], found["references"])
    assert scores.mean() == pytest.approx(found["first_reference_as_prediction"]["CIDEr"], abs=1e-8)
    assert cider([texts[0] for texts in found["references"][1:]], found["references"][:-1]).mean() < 0.2


def test_edges() -> None:
    assert cider([], []).shape == (0,)
    assert list(cider(["", "!"], [["a dog"], ["a cat", ""]])) == [0, 0]
    with pytest.raises(ValueError, match="There are 1 captions for 2 lists of references"):
        cider(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        cider(["a", "b"], [["a"], []])
