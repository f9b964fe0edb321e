import numpy as np
import pytest

from trainer.data.document import Document, Image
from trainer.data.emoji.atlas import sprites
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.evaluation.tasks import EVALUATION_TASKS, CaptionSlots, read_caption, score_caption, true_image

OPTIONS = TaskOptions(num_concepts=32)


def captioned(answer: str) -> Document:
    return Document((), "caption", "made/by/hand", 0, {"answer": answer})


@pytest.mark.parametrize("task", EVALUATION_TASKS)
def test_the_truth_gets_full_scores_in_everything_that_has_a_label(task: str) -> None:
    definition, seen = EVALUATION_TASKS[task], set()
    for document in documents(task, "val", 0, 12, options=OPTIONS):
        scores = definition.score(definition.true_answer(document, 32), document, 32)
        assert set(scores.values()) == {1.0}, document.key
        assert next(iter(scores)) == next(iter(definition.labels))
        seen |= scores.keys()
    assert seen == definition.labels.keys()


@pytest.mark.parametrize("task", EVALUATION_TASKS)
def test_the_prompt_does_not_hold_the_answer(task: str) -> None:
    definition = EVALUATION_TASKS[task]
    for document in documents(task, "val", 0, 4, options=OPTIONS):
        prompt = definition.prompt(document)
        assert document.segments[: len(prompt)] == tuple(prompt)
        if definition.kind == "image":
            assert len(prompt) < len(document.segments)
            assert isinstance(true_image(document), Image)
            assert all(segment is not true_image(document) for segment in prompt)
        else:
            following = document.segments[len(prompt)]
            assert following.text.strip() == document.truth["answer"]


@pytest.mark.parametrize("task", EVALUATION_TASKS)
def test_an_empty_answer_gets_no_full_score(task: str) -> None:
    definition = EVALUATION_TASKS[task]
    empty = "" if definition.kind == "text" else np.full((32, 32, 3), 0.45, dtype=np.float32)
    scores = [definition.score(empty, document, 32) for document in documents(task, "val", 0, 8, options=OPTIONS)]
    headline = next(iter(definition.labels))
    assert np.mean([its[headline] for its in scores]) <= (0 if definition.kind == "text" else 0.2)


def test_a_caption_is_taken_apart() -> None:
    slots = read_caption("A snail between an owl and grapes on an orange background")
    assert slots.names == ("snail", "owl", "grapes")
    assert (slots.relation, slots.colour) == ("* between * and *", "orange")
    assert read_caption("a fire engine above a fire").names == ("fire engine", "fire")
    assert read_caption("nonsense words").colour is None


def test_the_words_of_every_sprite_are_found() -> None:
    """An article that is cut out of a word makes another word (lm-evaluation-harness 1303)."""
    for sprite, other in zip(sprites(), sprites()[1:], strict=False):
        slots = read_caption(f"{sprite.phrase} left of {other.phrase} on an orange background")
        assert slots == CaptionSlots((sprite.name, other.name), "* left of *", "orange")


def test_caption_slots_are_scored_one_by_one() -> None:
    truth = captioned("a snail left of a rocket on a red background")

    def scores(answer: str) -> dict[str, float]:
        return score_caption(answer, truth, 32)

    assert scores("a snail left of a rocket on a blue background") == {
        "exact": 0, "sprites": 1, "colour": 0, "relation": 1,
    }  # fmt: skip
    assert scores("a snail above a rocket on a red background") == {
        "exact": 0, "sprites": 1, "colour": 1, "relation": 0,
    }  # fmt: skip
    assert scores("a rocket left of a snail on a red background") == {
        "exact": 0, "sprites": 1, "colour": 1, "relation": 0,
    }  # fmt: skip
    assert scores("a snail left of a banana on a red background")["relation"] == 1
    assert scores("a snail left of a banana on a red background")["sprites"] == 0.5
    assert scores("a snail left of a rocket and a banana on a red background")["sprites"] == pytest.approx(2 / 3)
    assert "relation" not in score_caption("a snail", captioned("a snail on a red background"), 32)


def test_reading_tells_the_wrong_number_from_one_that_is_not_there() -> None:
    [document] = documents("read", "val", 0, 1, options=OPTIONS)
    numbers = [str(item["number"]) for item in document.truth["images"][0]["objects"]]
    other = next(number for number in numbers if number != document.truth["answer"])
    absent = next(str(number) for number in range(10, 100) if str(number) not in numbers)
    assert EVALUATION_TASKS["read"].score(other, document, 32) == {"number": 0, "some_number": 1}
    assert EVALUATION_TASKS["read"].score(absent, document, 32) == {"number": 0, "some_number": 0}


def test_several_images_are_told_apart() -> None:
    """A number of another image is no number of the one asked about, and what was written last is the answer."""
    score, seen = EVALUATION_TASKS["compare"].score, 0
    for document in documents("compare", "val", 0, 48, options=OPTIONS):
        text, images = document.truth["questions"][0]["text"], document.truth["images"]
        true = document.truth["answer"]
        assert score(f"image 1 top left 99, {true}", document, 32)["answer"] == 1
        if " in image " not in text:
            other = 1 + int(true) % len(images)
            for said, right, some_image in ((true, 1, 1), (f"{true}, image {other}", 0, 1), ("0", 0, 0), ("", 0, 0)):
                assert score(said, document, 32) == {"answer": right, "which_image": right, "some_image": some_image}
            assert score(str(len(images) + 1), document, 32)["some_image"] == 0
            continue
        asked = int(text[-2]) - 1
        for place, image in enumerate(images):
            same, other = (item["number"] for item in image["objects"])
            here = float(place == asked)
            assert score(f"top left: {same}", document, 32) == {
                "answer": here, "number_in_image": here, "in_asked_image": here, "some_number": 1,
            }  # fmt: skip
            assert score(str(other), document, 32) == {
                "answer": 0, "number_in_image": 0, "in_asked_image": here, "some_number": 1,
            }  # fmt: skip
        for nothing in ("no idea", "7"):
            assert set(score(nothing, document, 32).values()) == {0}
        seen += 1
    assert seen > 10


def test_grounding_needs_half_an_overlap() -> None:
    [document] = documents("ground", "val", 0, 1, options=OPTIONS)
    x1, y1, x2, y2 = document.truth["box"]
    third = x1 + (x2 - x1) // 3
    scores = EVALUATION_TASKS["ground"].score(f"({x1:03},{y1:03})({third:03},{y2:03})", document, 32)
    assert scores["iou_50"] == 0
    assert 0.2 < scores["iou"] < 0.5
    assert EVALUATION_TASKS["ground"].score("no idea", document, 32) == {"iou_50": 0, "iou": 0}
