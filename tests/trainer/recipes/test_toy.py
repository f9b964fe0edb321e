"""The recipes of the emoji world."""

from dataclasses import replace

from trainer.data.emoji.tasks import TASKS
from trainer.recipes import toy, toy_refine, toy_steps


def test_a_demo_trains_on_as_its_weights_were_trained() -> None:
    made, further = toy_steps(), toy()
    assert list(further.data.tasks) == list(made.data.tasks), "their order decides which document comes when"
    assert further.data == made.data
    assert further.model == made.model
    assert further.freeze_encoder == made.freeze_encoder
    in_steps = {task for task in TASKS if task.endswith("_steps")}
    assert in_steps | {task.removesuffix("_steps") for task in in_steps} <= set(further.data.tasks)


def test_answers_in_steps_are_learned_as_toy_refine_learns() -> None:
    refine, made = toy_refine(), toy_steps()
    same = replace(made, recipe=refine.recipe, out=refine.out, init=refine.init, num_steps=refine.num_steps)
    assert replace(same, data=replace(same.data, tasks=refine.data.tasks)) == refine
