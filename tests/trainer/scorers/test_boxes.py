from collections.abc import Callable
from typing import Any

import pytest

from trainer.scorers.boxes import IOU_NEEDED, SCALE, box_iou, first_box, iou

Official = Callable[[str], Any]

# Answers that the released code reads as boxes and that are none here, and the other way round.
READ_ELSEWHERE_ONLY = {
    "(100.5,200.25)(300.75,400)",
    "(-5,-5)(10,10)",
    "(nan,nan)(nan,nan)",
    "(inf,0)(1,1)",
    "(1e2,2e2)(3e2,4e2)",
    "(１００,２００)(３００,４００)",
    "(1_00,2_00)(3_00,4_00)",
    "(+100,200)(300,400)",
}
READ_HERE_ONLY = {
    "(100,200) (300,400)",
    "(100,200),(300,400)",
    "(100,200)\n(300,400)",
    "(((100,200)(300,400)",
}


def test_which_answers_have_a_box(official: Official) -> None:
    elsewhere, here = set(), set()
    for case in official("boxes")["parsed"]:
        box = first_box(case["answer"])
        released = case["parsed"] if case["parsed"] != [0.0] * 4 else None
        if released is None and box is not None:
            here.add(case["answer"])
        elif released is not None and box is None:
            elsewhere.add(case["answer"])
        elif box is not None:
            assert [share * SCALE for share in box] == pytest.approx(released)
    assert (elsewhere, here) == (READ_ELSEWHERE_ONLY, READ_HERE_ONLY)


def test_the_released_score(official: Official) -> None:
    found = official("boxes")
    right = 0
    for item in found["items"]:
        box = first_box(item["pred_box"])
        value = 0.0 if box is None else iou(tuple(round(share * SCALE) for share in box), tuple(item["gt_box"]))
        if item["iou"] != "nan":
            assert value == pytest.approx(item["iou"], abs=1e-6)
        right += value >= IOU_NEEDED
    assert right / len(found["items"]) == found["accuracy"]


def test_iou_in_pixels(official: Official) -> None:
    for pair in official("boxes")["pixel_boxes"]:
        one, other = ((x, y, x + w, y + h) for x, y, w, h in (pair["xywh_a"], pair["xywh_b"]))
        assert iou(one, other) == pytest.approx(pair["released_iou"], abs=1e-6)
    assert iou((0, 0, 2, 2), (0, 0, 2, 1)) == IOU_NEEDED
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert iou((300, 400, 100, 200), (100, 200, 300, 400)) == 0


def test_an_answer_against_a_box_in_pixels() -> None:
    assert box_iou("it is (100,200)(300,400)", [64, 96, 128, 96], 640, 480) == pytest.approx(1)
    assert box_iou("(100,200)(300,300)", [64, 96, 128, 96], 640, 480) == pytest.approx(0.5)
    assert box_iou("I see none", [64, 96, 128, 96], 640, 480) is None
