import pytest

from models.generation.boxes import read_boxes, write_box


def test_boxes_are_found_in_text() -> None:
    assert read_boxes("a dog (010,020)(510,999) and a cat (000,000)(100,200).") == [
        (0.01, 0.02, 0.51, 0.999),
        (0.0, 0.0, 0.1, 0.2),
    ]


@pytest.mark.parametrize("text", ["", "(10,20)(30,40)", "(500,000)(400,900)", "(100,100)(100,900)", "(001,002)"])
def test_what_is_no_box_is_left_out(text: str) -> None:
    assert read_boxes(text) == []


def test_a_box_survives() -> None:
    box = (0.125, 0.0, 0.5, 0.987)
    assert read_boxes(write_box(box)) == [box]
    assert write_box((0.0, 0.0, 1.0, 1.0)) == "(000,000)(999,999)"
    with pytest.raises(ValueError, match="expected left, top, right, bottom as shares"):
        write_box((0.0, 0.0, 64.0, 64.0))
