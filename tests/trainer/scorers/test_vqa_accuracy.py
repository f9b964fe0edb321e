from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trainer.scorers.answers import released_answer
from trainer.scorers.vqa_accuracy import (
    clean_textvqa,
    clean_vqa,
    textvqa_accuracy,
    vizwiz_accuracy,
    vqa_accuracy,
    vqa_accuracy_always_cleaned,
)

Official = Callable[[str], Any]


def ten(answers: list[tuple[str, int]]) -> list[str]:
    return [text for text, times in answers for _ in range(times)]


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("vqa", vqa_accuracy),
        ("textvqa", textvqa_accuracy),
        ("vizwiz", vizwiz_accuracy),
        ("always_cleaned", vqa_accuracy_always_cleaned),
    ],
)
def test_the_official_score(official: Official, name: str, accuracy: Callable[[str, Sequence[str]], float]) -> None:
    found = official("vqa")
    scores = [accuracy(case["prediction"], ten(case["answers"])) for case in found["cases"]]
    assert len(scores) == 293
    assert [
        (case["prediction"], case["answers"], score)
        for case, score in zip(found["cases"], scores, strict=True)
        if score != pytest.approx(case[name], abs=1e-9)
    ] == []
    assert 100 * sum(scores) / len(scores) == pytest.approx(found["totals"][name], abs=1e-7)


def test_the_official_cleaning(official: Official) -> None:
    for case in official("vqa")["cases"]:
        assert clean_vqa(case["prediction"]) == case["cleaned"], case["prediction"]
        distinct = dict.fromkeys(text for text, _ in case["answers"])
        assert [clean_vqa(text) for text in distinct] == case["cleaned_answers"], case["answers"]
        assert clean_textvqa(case["prediction"]) == case["textvqa_cleaned"], case["prediction"]


def test_equal_answers_are_not_cleaned() -> None:
    assert vqa_accuracy("Black.", ["black"] * 10) == 0
    assert vqa_accuracy("Black.", ["black"] * 9 + ["dark"]) == 1
    assert vqa_accuracy_always_cleaned("Black.", ["black"] * 10) == 1


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_how_many_have_to_agree(matches: int, score: float) -> None:
    assert vqa_accuracy("cat", ["cat"] * matches + ["dog"] * (10 - matches)) == pytest.approx(score)


def test_vizwiz_does_not_clean_answers() -> None:
    assert vizwiz_accuracy("two", ["two"] * 10) == 0
    assert vizwiz_accuracy("two", ["2"] * 10) == 1


def test_textvqa_has_ten_answers() -> None:
    with pytest.raises(ValueError, match="There are 9 answers; TextVQA has 10"):
        textvqa_accuracy("a", ["a"] * 9)


def test_the_rules_of_the_released_code(official: Official) -> None:
    found = official("vqa")
    assert len(found["released_extract"]) == 27
    for text, answer in found["released_extract"]:
        assert released_answer(text) == answer, text
    scores = [vqa_accuracy(released_answer(case["prediction"]), ten(case["answers"])) for case in found["cases"]]
    assert 100 * sum(scores) / len(scores) == pytest.approx(found["totals"]["vqa_after_released_extract"], abs=1e-7)
