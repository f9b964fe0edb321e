"""The tasks of `finetuning` in the emoji world, from the shipped weights, in two minutes on a laptop."""

from __future__ import annotations

from dataclasses import replace

from models import MMInterleavedConfig
from models.component_names import FrozenComponent
from trainer.config import TrainConfig
from trainer.recipes.toy import toy
from trainer.system_config import CheckpointConfig


def toy_vqa(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """`vqa` small: numbers under sprites, captions, questions about several images."""
    return _twin("vqa", {"read": 3.0, "caption": 1.0, "compare": 2.0}, ["image_decoder"], model)


def toy_rec(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """`rec` small: the box of a sprite.

    Expect no gain: with a learning rate of 1e-3, 120 steps left the loss of a box where it was. bench/LOG.md tells what
    of the box the shipped model knows, and why.
    """
    return _twin("rec", {"ground": 1.0}, ["image_decoder"], model)


def toy_seg2img(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """`seg2img` small: coloured silhouettes and a caption to the scene."""
    return _twin("seg2img", {"label_map": 1.0}, ["language_model"], model)


def toy_story(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """`story` small: four sentences and their images."""
    return _twin("story", {"story": 1.0}, ["language_model"], model)


def toy_instruct(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """`instruct` small: a chat about an image that ends with drawing one."""
    return _twin("instruct", {"chat": 1.0}, [], model)


def _twin(
    task: str, families: dict[str, float], frozen: list[FrozenComponent], model: MMInterleavedConfig | None
) -> TrainConfig:
    base = toy()
    return replace(
        base,
        recipe=f"toy_{task}",
        out=f"runs/toy_{task}",
        model=model or base.model,
        data=replace(base.data, tasks=families),
        frozen=frozen,
        num_steps=120,
        max_minutes=None,
        optim=replace(base.optim, lr=3e-4, warmup_steps=10),
        checkpoint=CheckpointConfig(every=60),
    )
