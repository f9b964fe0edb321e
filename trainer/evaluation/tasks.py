"""How each task family of the emoji world is evaluated: what the model is given, and how its answer is scored.

The first score of a family is its headline. Every score is a share between 0 and 1 of one document; a score that makes
no sense for a document is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from trainer.data.document import Document, Image, Segment, prompt_of
from trainer.data.emoji.atlas import sprites
from trainer.evaluation.image_scores import foreground_iou, scene_scores, to_float
from trainer.evaluation.text_scores import exact_match, last_number, number_match, read_box, search_match
from trainer.scorers.boxes import iou

Answer = str | np.ndarray
"""Text, or an image: float32 [h, h, 3] in [0, 1]."""


Scorer = Callable[[Answer, Document, int], dict[str, float]]
"""(answer, document, num_concepts) to its scores."""


@dataclass(frozen=True)
class Task:
    """One family's evaluation."""

    title: str
    kind: Literal["text", "image"]
    given: str
    """What the model gets and has to do, in words."""

    labels: Mapping[str, str]
    """Each score's name and what it is, in words; the headline first."""

    score: Scorer

    max_new_tokens: int = 0
    """Of an image's family: text that the model writes before it draws."""

    prompt: Callable[[Document], Sequence[Segment]] = prompt_of

    def true_answer(self, document: Document, image_side: int) -> Answer:
        """The answer that the document itself gives; an image at the side that the model draws at."""
        return document.truth["answer"] if self.kind == "text" else to_float(true_image(document).pixels, image_side)


def true_image(document: Document) -> Image:
    """The image that is to be drawn: the last segment of a document of an image task."""
    image = document.segments[-1]
    if not isinstance(image, Image):
        raise ValueError(f"The last segment of {document.key} is text; expected the image to draw.")
    return image


@dataclass(frozen=True)
class CaptionSlots:
    """What a caption says."""

    names: tuple[str, ...]
    """Sprites in the order of the text."""

    relation: str
    """The words with every name replaced by *, without articles and background: "* left of *"."""

    colour: str | None


@lru_cache(maxsize=1)
def _name_pattern() -> re.Pattern[str]:
    names = sorted((sprite.name for sprite in sprites()), key=len, reverse=True)  # the longest name that fits
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")


def read_caption(text: str) -> CaptionSlots:
    """Take a caption of the world's grammar apart; words outside of it end up in `relation`."""
    words = " ".join(text.lower().split())
    background = re.search(r" on an? (\w+) background", words)
    scene = words[: background.start()] if background else words
    relation = re.sub(r"\b(?:a|an) \*", "*", _name_pattern().sub("*", scene))
    return CaptionSlots(tuple(_name_pattern().findall(scene)), relation, background.group(1) if background else None)


def score_caption(answer: Answer, document: Document, _num_concepts: int) -> dict[str, float]:
    """Exact wording, and its slots one by one."""
    said, true = read_caption(str(answer)), read_caption(document.truth["answer"])
    shared = len(set(said.names) & set(true.names))
    scores = {
        "exact": exact_match(str(answer), document.truth["answer"]),
        "sprites": shared / max(len(said.names), len(true.names)),
        "colour": float(said.colour == true.colour),
    }
    if len(true.names) > 1:
        order = [[name for name in one.names if name in other.names] for one, other in ((said, true), (true, said))]
        scores["relation"] = float(said.relation == true.relation and order[0] == order[1])
    return scores


def score_reading(answer: Answer, document: Document, _num_concepts: int) -> dict[str, float]:
    """The number asked for, and whether it is at least one that stands in the image."""
    numbers = [str(item["number"]) for item in document.truth["images"][0]["objects"]]
    return {
        "number": number_match(str(answer), document.truth["answer"]),
        "some_number": max(number_match(str(answer), number) for number in numbers),
    }


def score_grounding(answer: Answer, document: Document, _num_concepts: int) -> dict[str, float]:
    """Overlap of the written box with the true one; text without a box overlaps nothing."""
    said, true = read_box(str(answer)), read_box(document.truth["answer"])
    assert true is not None, f"{document.key} has no box"
    overlap = iou(said, true) if said is not None else 0.0
    return {"iou_50": float(overlap >= 0.5), "iou": overlap}


def score_comparison(answer: Answer, document: Document, _num_concepts: int) -> dict[str, float]:
    """The number asked for; also on its own for each of the two kinds of question, beside what only looks like an
    answer: for "image i" a number of image i, of whichever sprite, and one of any image; for "which image" the index of
    any image that is there. No number stands in two images of a document."""
    said, images = last_number(str(answer)), document.truth["images"]
    right = number_match(str(answer), document.truth["answer"])
    asked_image = re.search(r"in image (\d+)\?", document.truth["questions"][0]["text"])
    if asked_image is None:
        some_image = said in {str(index) for index in range(1, len(images) + 1)}
        return {"answer": right, "which_image": right, "some_image": float(some_image)}
    numbers = [{str(item["number"]) for item in image["objects"]} for image in images]
    return {
        "answer": right,
        "number_in_image": right,
        "in_asked_image": float(said in numbers[int(asked_image.group(1)) - 1]),
        "some_number": float(said in set.union(*numbers)),
    }


def with_search(score: Scorer) -> Scorer:
    """The scores of an answer, and whether the search in writing that comes before it is right."""

    def score_both(answer: Answer, document: Document, num_concepts: int) -> dict[str, float]:
        search = search_match(str(answer), document.truth["answer"])
        return {**score(answer, document, num_concepts), "search": search}

    return score_both


def score_drawing(answer: Answer, document: Document, num_concepts: int) -> dict[str, float]:
    """The last image as a whole, its sprites and its background."""
    assert isinstance(answer, np.ndarray)
    return scene_scores(answer, document.truth["images"][-1], num_concepts)


def score_layout(answer: Answer, document: Document, num_concepts: int) -> dict[str, float]:
    """The same, and whether the sprites' shapes lie where the label map says."""
    assert isinstance(answer, np.ndarray)
    true = to_float(true_image(document).pixels, len(answer))
    overlap = foreground_iou(answer, true, document.truth["images"][-1])
    return {**score_drawing(answer, document, num_concepts), "foreground": overlap}


DRAWING_LABELS = {
    "scene": "the whole scene right",
    "sprites_in_place": "the right sprites in their places, and no others",
    "background": "the right background colour",
}
READING_LABELS = {"number": "exact number", "some_number": "any number that stands in the image"}
GROUNDING_LABELS = {"iou_50": "overlap (IoU) of at least one half", "iou": "mean overlap (IoU)"}
COMPARISON_LABELS = {
    "answer": "right answer",
    "number_in_image": "“which number is under … in image i?”",
    "in_asked_image": "the same: any number of image i",
    "some_number": "the same: any number of any image",
    "which_image": "“which image has …?”",
    "some_image": "the same: any image that is there",
}
SEARCH_LABEL = {"search": "the search in writing, every word"}
EVALUATION_TASKS: dict[str, Task] = {
    "caption": Task(
        title="Caption",
        kind="text",
        given="An image and “a photo of”; the model writes the caption.",
        labels={
            "exact": "every word right",
            "sprites": "sprites named (shared over the longer list)",
            "relation": "how two or three sprites stand, in order",
            "colour": "background colour",
        },
        score=score_caption,
        max_new_tokens=40,
    ),
    "read": Task(
        title="Detail reading",
        kind="text",
        given="An image of several sprites with small printed numbers, and a question for one of them.",
        labels=READING_LABELS,
        score=score_reading,
        max_new_tokens=10,
    ),
    "ground": Task(
        title="Grounding",
        kind="text",
        given="An image and a sprite's name; the model writes the corners of its box in thousandths.",
        labels=GROUNDING_LABELS,
        score=score_grounding,
        max_new_tokens=24,
    ),
    "compare": Task(
        title="Several images",
        kind="text",
        given="Two to four images and a question about one of them.",
        labels=COMPARISON_LABELS,
        score=score_comparison,
        max_new_tokens=10,
    ),
    "draw": Task(
        title="Text to image",
        kind="image",
        given="A sentence; the model draws it.",
        labels=DRAWING_LABELS,
        score=score_drawing,
    ),
    "label_map": Task(
        title="Label map to image",
        kind="image",
        given="Coloured silhouettes and a caption; the model draws the scene.",
        labels={**DRAWING_LABELS, "foreground": "foreground overlap (IoU) with the truth"},
        score=score_layout,
    ),
    "story": Task(
        title="Story",
        kind="image",
        given="Three sentences with their images and a fourth sentence; the model draws the fourth image.",
        labels=DRAWING_LABELS,
        score=score_drawing,
        prompt=lambda document: document.segments[:-1],
    ),
    "chat": Task(
        title="Chat",
        kind="text",
        given="A user's turn: an image of one to four sprites with numbers, and a question for one of them.",
        labels=READING_LABELS,
        score=score_reading,
        max_new_tokens=10,
    ),
    "read_steps": Task(
        title="Detail reading, step by step",
        kind="text",
        given="The same question; the model first writes what stands where, up to the sprite asked for.",
        labels={**READING_LABELS, **SEARCH_LABEL},
        score=with_search(score_reading),
        max_new_tokens=48,
    ),
    "ground_steps": Task(
        title="Grounding, step by step",
        kind="text",
        given="The same question; the model first writes what stands where, up to the sprite asked for.",
        labels={**GROUNDING_LABELS, **SEARCH_LABEL},
        score=with_search(score_grounding),
        max_new_tokens=56,
    ),
    "compare_steps": Task(
        title="Several images, step by step",
        kind="text",
        given="The same questions; the model first writes what stands where, image after image where it has to.",
        labels={**COMPARISON_LABELS, **SEARCH_LABEL},
        score=with_search(score_comparison),
        max_new_tokens=88,
    ),
    "label_map_steps": Task(
        title="Label map to image, step by step",
        kind="image",
        given="The same; the model first writes what stands where.",
        labels={**DRAWING_LABELS, "foreground": "foreground overlap (IoU) with the truth"},
        score=score_layout,
        max_new_tokens=48,
    ),
    "story_steps": Task(
        title="Story, step by step",
        kind="image",
        given="The same; before each image stands what it shows where, and the model writes it for the fourth one.",
        labels=DRAWING_LABELS,
        score=score_drawing,
        max_new_tokens=32,
        prompt=lambda document: document.segments[:-2],
    ),
    "arrange": Task(
        title="Text to image by places",
        kind="image",
        given="A sentence with what shall stand in which quarter; the model draws it.",
        labels=DRAWING_LABELS,
        score=score_drawing,
    ),
    "arrange_steps": Task(
        title="Text to image by places, step by step",
        kind="image",
        given="The same; the model first writes what stands where, in reading order.",
        labels=DRAWING_LABELS,
        score=score_drawing,
        max_new_tokens=40,
    ),
}
