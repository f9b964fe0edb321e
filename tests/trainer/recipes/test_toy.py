"""The recipes of the emoji world."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from trainer.config import TrainConfig
from trainer.data.emoji.tasks import TASKS
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.recipes import toy, toy_draw, toy_refine, toy_search, toy_steps

Recipe = Callable[[], TrainConfig]


def test_a_demo_trains_on_as_its_weights_were_trained() -> None:
    made, further = toy_steps(), toy()
    assert list(further.data.tasks) == list(made.data.tasks), "their order decides which document comes when"
    assert further.data == made.data
    assert further.model == made.model
    assert further.freeze_encoder == made.freeze_encoder
    in_steps = {task for task in TASKS if task.endswith("_steps")}
    assert in_steps | {task.removesuffix("_steps") for task in in_steps} <= set(further.data.tasks)


@pytest.mark.parametrize(("made", "before"), [(toy_search, toy_refine), (toy_steps, toy_search)])
def test_one_goes_on_from_the_other_with_other_tasks_alone(made: Recipe, before: Recipe) -> None:
    own, base = made(), before()
    assert replace(own.model, image_decoder=base.model.image_decoder) == base.model
    assert own.init == f"{base.out}/model"
    same = replace(own, recipe=base.recipe, out=base.out, init=base.init, num_steps=base.num_steps, model=base.model)
    assert replace(same, data=replace(same.data, tasks=base.data.tasks)) == base


def test_drawing_alone_goes_on_from_all_tasks() -> None:
    own, base = toy_draw(), toy_steps()
    assert own.init == f"{base.out}/model"
    assert own.frozen == ["all_but_image_decoder"]
    assert replace(own.model, image_decoder=base.model.image_decoder) == base.model
    assert {EVALUATION_TASKS[task].kind for task in own.data.tasks} == {"image"}
