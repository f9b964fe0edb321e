"""Stories that the model goes on with by itself."""

from __future__ import annotations

from collections.abc import Iterator

from models import MMInterleaved
from trainer.data.document import prompt_of
from trainer.demo.content import Story
from trainer.evaluation.answers import drawing_options, to_model
from trainer.evaluation.held_out import held_out
from trainer.evaluation.settings import Settings

STORY_TOKENS = 96


def tell(model: MMInterleaved, settings: Settings, *, num_stories: int) -> Iterator[Story]:
    """Let the model go on from the first sentence of held-out stories, in text and images as it likes."""
    for index, document in enumerate(held_out(model, settings, "story", num_stories)):
        prompt = prompt_of(document)
        written = model.generate(
            to_model(prompt, model.config.image_size[0]),
            mode="auto",
            max_new_tokens=STORY_TOKENS,
            max_new_images=4,
            **drawing_options(settings, index),
        )
        yield Story(tuple(prompt), tuple(written))
