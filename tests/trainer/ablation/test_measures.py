from trainer.ablation.measures import MEASURES, levels
from trainer.ablation.scales import SCALES
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.evaluation.grading import grade
from trainer.evaluation.tasks import EVALUATION_TASKS

OPTIONS = TaskOptions(num_concepts=12, num_sprites=4)


def test_every_measure_is_a_score_of_its_task_and_every_task_of_a_lesson_has_one() -> None:
    for measure in MEASURES:
        assert measure.score in EVALUATION_TASKS[measure.task].labels
    for scale in SCALES.values():
        for lesson in scale.lessons.values():
            assert {measure.task for measure in MEASURES if measure.lesson == lesson.name} == lesson.tasks.keys()


def test_levels_of_right_answers_are_full_and_chance_is_low() -> None:
    asked = documents("compare", "val", 0, 24, options=OPTIONS)
    truths = [document.truth["answer"] for document in asked]
    found = levels({"compare": grade(EVALUATION_TASKS["compare"], asked, truths, num_concepts=12, image_side=32)})
    about_a_number = sum("in image" in document.truth["questions"][0]["text"] for document in asked)
    level = found["compare"]["in_asked_image"]
    assert (level.mean, level.num_documents) == (1, about_a_number)
    assert level.chance is not None
    assert level.chance < 0.3
