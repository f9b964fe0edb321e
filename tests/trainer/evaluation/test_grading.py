import numpy as np
import pytest

from demo_fakes import NUM_CONCEPTS, SIDE, WORLD, fake_evaluation, perfect_answer
from trainer.data.emoji.tasks import documents
from trainer.evaluation.grading import grade
from trainer.evaluation.tasks import EVALUATION_TASKS


@pytest.mark.parametrize("task", EVALUATION_TASKS)
def test_right_answers_earn_1_and_those_of_other_documents_the_chance_level(task: str) -> None:
    definition = EVALUATION_TASKS[task]
    asked = documents(task, "val", 0, 6, options=WORLD)
    right = [perfect_answer(document) for document in asked]
    perfect = grade(definition, asked, right, num_concepts=NUM_CONCEPTS, image_side=SIDE)
    assert all(one.right for one in perfect.answered)
    for score in perfect.scores.values():
        assert score.ceiling == 1
        assert score.mean == pytest.approx(1, abs=0.01)  # an image has 256 levels a channel, its truth more
    shifted = [
        grade(definition, asked, right[shift:] + right[:shift], num_concepts=NUM_CONCEPTS, image_side=SIDE).scores
        for shift in range(1, 5)
    ]
    headline = next(iter(definition.labels))
    if task != "compare":  # there, answers to the other kind of question are left out of chance
        chance = perfect.scores[headline].chance
        assert chance is not None
        if definition.kind == "image":
            assert chance == pytest.approx(np.mean([scores[headline].mean for scores in shifted]))
        assert chance < 0.5


def test_chance_of_a_single_document_is_unknown() -> None:
    alone = fake_evaluation("a", num_documents=1, every_wrong=2)
    assert {score.chance for result in alone.tasks.values() for score in result.scores.values()} == {None}
