"""Whole runs by name. A recipe is a function without arguments, varied with `dataclasses.replace`."""

from collections.abc import Mapping
from typing import Protocol

from models import MMInterleavedConfig
from trainer.config import TrainConfig
from trainer.options.parser import Recipes
from trainer.recipes.finetuning import instruct, rec, seg2img, story, vqa
from trainer.recipes.paper import ablation_3b, paper_13b, paper_13b_512, sdxl_13b
from trainer.recipes.toy import tiny, toy, toy_draw, toy_refine, toy_scratch, toy_search, toy_steps
from trainer.recipes.toy_finetuning import toy_instruct, toy_rec, toy_seg2img, toy_story, toy_vqa

DEFAULT_RECIPE = "toy"
RECIPES: Recipes = {
    "toy": toy,
    "toy_scratch": toy_scratch,
    "toy_refine": toy_refine,
    "toy_search": toy_search,
    "toy_steps": toy_steps,
    "toy_draw": toy_draw,
    "tiny": tiny,
    "paper_13b": paper_13b,
    "paper_13b_512": paper_13b_512,
    "sdxl_13b": sdxl_13b,
    "ablation_3b": ablation_3b,
}
"""For `python -m trainer.pretrain`."""


class TaskRecipe(Protocol):
    """A recipe for a given model; without one, for the model that the paper or the toy has."""

    def __call__(self, model: MMInterleavedConfig | None = None) -> TrainConfig: ...


FINETUNING: Mapping[str, TaskRecipe] = {
    "vqa": vqa,
    "rec": rec,
    "seg2img": seg2img,
    "story": story,
    "instruct": instruct,
    "toy_vqa": toy_vqa,
    "toy_rec": toy_rec,
    "toy_seg2img": toy_seg2img,
    "toy_story": toy_story,
    "toy_instruct": toy_instruct,
}
"""For `python -m trainer.finetune`."""

ALL_RECIPES: Recipes = {**RECIPES, **FINETUNING}

__all__ = [
    "ALL_RECIPES",
    "DEFAULT_RECIPE",
    "FINETUNING",
    "RECIPES",
    "tiny",
    "toy",
    "toy_draw",
    "toy_refine",
    "toy_scratch",
    "toy_search",
    "toy_steps",
]
