import pytest

from trainer.evaluation.text_scores import exact_match, number_match, read_box, search_match
from trainer.scorers.boxes import iou


@pytest.mark.parametrize(
    ("answer", "right"),
    [("a snail", 1), (" A  snail.", 1), ("a snail on a", 0), ("", 0), ("snail", 0)],
)
def test_exact_match(answer: str, right: int) -> None:
    assert exact_match(answer, "a snail") == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("37", 1),
        (" it is 37 </s>", 1),
        ("37 42", 0),
        ("42 37", 1),
        ("top left 42, middle: 37", 1),
        ("137", 0),
        ("3 7", 0),
        ("", 0),
    ],
)
def test_number_match(answer: str, right: int) -> None:
    assert number_match(answer, "37") == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("top left whale, middle strawberry: 11", 1),
        (" top left  whale, middle strawberry: 99\nimage 2: 11", 1),
        ("top left whale, top strawberry: 11", 0),
        ("middle strawberry: 11", 0),
        ("top left whale, middle strawberry", 0),
        ("11", 0),
    ],
)
def test_search_match(answer: str, right: int) -> None:
    assert search_match(answer, "top left whale, middle strawberry: 11") == right


def test_what_is_written_around_an_answer_does_not_count() -> None:
    """Public reports on lm-evaluation-harness: 3399 (white space at the end), 978 (a model that did not end), 1204 (the
    answer after its derivation); of a tokenizer without a space before the first word: oellm-eval 112."""
    assert exact_match(" a snail \n", "a snail") == 1
    assert number_match("10\n\nPassage: the census of 2011", "10") == 1
    assert number_match("\n 10", "10") == 1
    assert number_match("3*3=<<3*3=9>>9 times, so 9*60=<<9*60=540>>540 metres #### 540", "540") == 1
    assert read_box("(100,050)(300,500)\n(200,050)(999,500)") == (0.1, 0.05, 0.3, 0.5)


def test_boxes_are_read_in_thousandths() -> None:
    assert read_box("at (100,050)(999,500) it is") == (0.1, 0.05, 0.999, 0.5)
    for nonsense in ("", "(100,050)", "(100,050)(100,500)", "(10,50)(99,99)", "(500,500)(100,600)"):
        assert read_box(nonsense) is None
    assert read_box("snail (100,050)(300,500), owl (200,050)(999,500)") == (0.2, 0.05, 0.999, 0.5)


def test_box_iou() -> None:
    box = (0.2, 0.2, 0.6, 0.4)
    assert iou(box, box) == pytest.approx(1)
    assert iou(box, (0.2, 0.2, 0.4, 0.4)) == pytest.approx(0.5)
    assert iou(box, (0.4, 0.3, 0.8, 0.5)) == pytest.approx(1 / 7)
    assert iou(box, (0.6, 0.2, 0.9, 0.4)) == 0
    assert iou(box, (0.7, 0.7, 0.9, 0.9)) == 0
