"""Where MMFS samples the images while the model writes an answer, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from models import MMInterleaved
from models.generation.query_locations import QueryLocations
from trainer.data.document import Document
from trainer.demo.content import LocatedAnswer, LocatedWord
from trainer.evaluation.answers import to_model
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.grading import Answered
from trainer.evaluation.tasks import EVALUATION_TASKS

NUM_LOCATED = {"read_steps": 6, "compare_steps": 6, "ground_steps": 4, "caption": 4}
"""Documents of each task: the first ones."""

NUM_POINTS = 64
"""Of a word, in all images: those with the most attention. The others would hardly be seen."""


def located_answers(model: MMInterleaved, evaluation: Evaluation) -> Iterator[LocatedAnswer]:
    """Where the model samples to answer the first documents of some tasks; nothing without MMFS."""
    if len(model.language_model.synchronizers):
        for task, num in NUM_LOCATED.items():
            if task in evaluation.tasks:
                for one in evaluation.tasks[task].answered[:num]:
                    yield located_answer(model, one.document, evaluation.settings.num_concepts)


def located_answer(model: MMInterleaved, document: Document, num_concepts: int) -> LocatedAnswer:
    """Let the model answer a document in text.

    Args:
        model: with MMFS in its language model.
        document: of a task whose answer is text.
        num_concepts: of the world that it is scored in.

    Raises:
        ValueError: the model has no MMFS layers or no processor, or the answer is an image.
    """
    task = EVALUATION_TASKS[document.task]
    if task.kind != "text":
        raise ValueError(f"{document.key} is answered with an image; expected a task whose answer is text.")
    written = model.generate(
        to_model(task.prompt(document), model.config.image_size[0]),
        mode="text",
        max_new_tokens=task.max_new_tokens,
        sampling_locations=True,
    )
    locations = written.sampling_locations
    assert locations is not None, "it was asked for"
    words = (located_word(found[0], locations.of_text(*found.span())) for found in re.finditer(r"\S+", written.text))
    said = written.text.strip()
    return LocatedAnswer(Answered(document, said, task.score(said, document, num_concepts)), tuple(words))


def located_word(text: str, looked: QueryLocations) -> LocatedWord:
    """The points of all layers and heads in each image, with their weights of all levels together."""
    found = []
    for place in range(len(looked.images)):
        for locations, weights in zip(looked.sampling_locations, looked.attention_weights, strict=True):
            share = weights[place].sum(1) / (len(looked.layers) * len(weights[place]))  # [H, P], of all attention
            inside = zip(locations[place, :, 0].flatten(0, 1).tolist(), share.flatten().tolist(), strict=True)
            found += [(weight, place, x, y) for (x, y), weight in inside if 0 <= x <= 1 and 0 <= y <= 1]
    heaviest = sorted(found, reverse=True)[:NUM_POINTS]
    points = (
        tuple((x, y, weight) for weight, its_place, x, y in heaviest if its_place == place)
        for place in range(len(looked.images))
    )
    return LocatedWord(text, tuple(points), tuple(looked.share(image) for image in looked.images))
