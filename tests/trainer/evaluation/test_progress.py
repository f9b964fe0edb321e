from trainer.evaluation.progress import progress_line


def test_the_time_left_is_known_once_every_family_has_an_answer() -> None:
    asked = {"read": "abcd", "draw": "ab"}
    assert progress_line(asked, {"read": "a", "draw": ""}, {"read": 2.0, "draw": 0.0}, 1) == "evaluation 1/6 documents"
    half = {"read": "ab", "draw": "a"}, {"read": 10.0, "draw": 60.0}  # 2 × 5 s and 1 × 60 s are left
    assert progress_line(asked, *half, num_workers=1) == "evaluation 3/6 documents  1:10 left"
    assert progress_line(asked, *half, num_workers=2) == "evaluation 3/6 documents  0:35 left"
