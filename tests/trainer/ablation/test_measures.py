import pytest

from trainer.ablation.measures import levels, places_of_number
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.evaluation.grading import grade
from trainer.evaluation.tasks import EVALUATION_TASKS

OPTIONS = TaskOptions(num_concepts=12, num_sprites=4)
ASKED = documents("compare", "val", 0, 24, options=OPTIONS)


def about_a_image():
    return [document for document in ASKED if "in image" in document.truth["questions"][0]["text"]]


def number_of(document, image):
    return str(document.truth["images"][image]["objects"][0]["number"])


def test_a_number_stands_in_the_image_asked_about_in_another_or_in_none():
    document = about_a_image()[0]
    asked = int(document.truth["questions"][0]["text"][-2]) - 1
    other = 1 - asked if asked < 2 else 0
    assert number_of(document, other) not in {
        str(item["number"]) for item in document.truth["images"][asked]["objects"]
    }
    for answer, expected in (
        (f"top left: {number_of(document, asked)}", (1, 1)),
        (number_of(document, other), (0, 1)),
        ("100", (0, 0)),
        ("no idea", (0, 0)),
    ):
        assert tuple(places_of_number(answer, document).values()) == expected


def test_levels_of_right_answers_are_full_and_chance_is_low():
    truths = [document.truth["answer"] for document in ASKED]
    found = levels({"compare": grade(EVALUATION_TASKS["compare"], ASKED, truths, num_concepts=12, image_side=32)})[
        "compare"
    ]
    assert found["in_asked_image"].mean == found["in_some_image"].mean == found["number_in_image"].mean == 1
    assert found["in_asked_image"].num_documents == len(about_a_image())
    assert found["in_asked_image"].chance <= found["in_some_image"].chance < 0.3


def test_without_such_questions_there_are_no_such_levels():
    others = [document for document in ASKED if document not in about_a_image()]
    truths = [document.truth["answer"] for document in others]
    found = levels({"compare": grade(EVALUATION_TASKS["compare"], others, truths, num_concepts=12, image_side=32)})[
        "compare"
    ]
    assert found.keys() == {"answer", "which_image"}
    with pytest.raises(AssertionError, match="asks for no number"):
        places_of_number("12", others[0])
