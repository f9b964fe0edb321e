"""Boxes in crops."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.document import WHOLE, Image, Text
from trainer.data.seen_boxes import in_view

MIDDLE = (0.25, 0.0, 0.75, 1.0)


def image(visible: tuple[float, float, float, float]) -> Image:
    return Image(np.zeros((1, 1, 3), np.uint8), visible=visible)


@pytest.mark.parametrize(
    ("box", "seen"),
    [
        ("(300,200)(500,400)", "(100,200)(500,400)"),
        ("(160,000)(360,999)", "(000,000)(220,999)"),  # a little more than half is in view
        ("(640,100)(840,200)", "(780,100)(999,200)"),
        ("(100,100)(300,200)", None),
        ("(000,100)(100,200)", None),
        ("(300,100)(300,200)", "(100,100)(100,200)"),
        ("(100,100)(100,200)", None),
        ("(500,400)(300,200)", None),
    ],
)
def test_a_box_is_a_share_of_what_is_seen(box, seen):
    text = Text(f" {box}")
    moved = in_view((image(MIDDLE), text))
    assert (None if moved is None else moved[1].text.strip()) == seen
    assert in_view((image(WHOLE), text))[1] is text


def test_a_box_is_of_the_image_before_it():
    box = Text("(300,200)(500,400)")
    moved = in_view((box, image(MIDDLE), box, image(WHOLE), box))
    assert [one.text for one in moved if isinstance(one, Text)] == [box.text, "(100,200)(500,400)", box.text]
