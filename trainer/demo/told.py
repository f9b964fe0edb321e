"""Documents that the model goes on with by itself: it plans each image in writing, and draws it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models import MMInterleaved
from trainer.data.document import prompt_of
from trainer.demo.content import Told
from trainer.evaluation.answers import drawing_options, to_model
from trainer.evaluation.held_out import held_out
from trainer.evaluation.settings import Settings


@dataclass(frozen=True)
class Telling:
    """What the model goes on with, and how far."""

    task: str
    num_images: int
    max_new_tokens: int


STORIES = Telling("story_steps", num_images=4, max_new_tokens=192)
"""From the first sentence alone: four sentences, plans and images."""

LABEL_MAPS = Telling("label_map_steps", num_images=1, max_new_tokens=48)
"""Coloured silhouettes and a caption: a plan and an image."""


def tell(model: MMInterleaved, settings: Settings, telling: Telling, *, num_documents: int) -> Iterator[Told]:
    """Let the model go on with the first held-out documents, in text and images as it likes."""
    for index, document in enumerate(held_out(model, settings, telling.task, num_documents)):
        prompt = prompt_of(document)
        written = model.generate(
            to_model(prompt, model.config.image_size[0]),
            mode="auto",
            max_new_tokens=telling.max_new_tokens,
            max_new_images=telling.num_images,
            **drawing_options(settings, index),
        )
        yield Told(document, tuple(prompt), tuple(written))
