"""Ready prompts: what a document of a task holds, and the words that the paper puts around it."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.generation.documents import Document, PromptSegment
    from models.generation.options import Mode

IMAGE = "image"
"""The slot that takes an image; any other takes text."""

USER = "USER:"
ASSISTANT = " ASSISTANT:"
"""What marks the turns of a chat: the words of Vicuna, the paper's language model."""


@dataclass(frozen=True)
class Prompt:
    """The wording of one task: texts with slots in braces, which the document's segments fill.

    The images go into {image}, the texts in their order into the other slots.
    """

    opening: str
    mode: Mode
    """The mode of the answer, unless the caller gives another."""

    round: str = ""
    """This part is repeated as often as the document has segments for it."""

    closing: str = ""

    def fill(self, document: Document) -> list[PromptSegment]:
        """The document with the words around it; neighbouring texts are one segment.

        Punctuation after a slot is not doubled: "what is it?" fits "{question}?".

        Raises:
            ValueError: the document's segments are not those that the prompt takes.
        """
        template = self._for(len(document))
        parts = [(words, slot) for words, slot, _, _ in Formatter().parse(template)]
        wanted = [slot for _, slot in parts if slot]
        images = [segment for segment in document if not isinstance(segment, str)]
        texts = [segment for segment in document if isinstance(segment, str)]
        if (len(images), len(texts)) != (wanted.count(IMAGE), len(wanted) - wanted.count(IMAGE)):
            raise ValueError(
                f"The document holds {len(images)} images and {len(texts)} texts; expected what fills the prompt "
                f"{template!r}: {', '.join(wanted)}."
            )
        filled: list[PromptSegment] = []
        for place, (words, slot) in enumerate(parts):
            _append(filled, words)
            if slot == IMAGE:
                filled.append(images.pop(0))
            elif slot:
                behind = parts[place + 1][0] if place + 1 < len(parts) else ""
                _append(filled, texts.pop(0).removesuffix(behind[:1].strip()))
        return filled

    def _for(self, num_segments: int) -> str:
        """The template with as many rounds as that many segments need."""
        left = num_segments - _num_slots(self.opening) - _num_slots(self.closing)
        num_rounds = max(left // _num_slots(self.round), 0) if self.round else 0
        return self.opening + self.round * num_rounds + self.closing


PROMPTS: dict[str, Prompt] = {
    # Paper Table 17, without fine-tuning.
    "caption": Prompt("{image} a photo of", "text"),
    "detailed_caption": Prompt("{image} Please describe the image in detail. The image depicts", "text"),
    "question": Prompt(
        "Based on the image, please answer the question. {image}{question} Please provide an accurate answer within "
        "one word. The answer is:",
        "text",
    ),
    "question_or_unanswerable": Prompt(
        "Based on the image, please answer the question. {image}{question} When the provided information is "
        "insufficient, respond with 'Unanswerable'. Please provide an accurate answer within one word. The answer is:",
        "text",
    ),
    "dialogue": Prompt(
        "{image} caption: {caption}",
        "text",
        round=" question: {question}? answer: {answer}.",
        closing=" question: {question}? answer:",
    ),
    # Paper Table 17, after fine-tuning, where it differs.
    "caption_tuned": Prompt("{image} Provide a one-sentence caption for the provided image.", "text"),
    "detailed_caption_tuned": Prompt("{image} Please describe the image in detail.", "text"),
    # Paper appendix B.2; the answer is a box, see `Generated.boxes`.
    "grounding": Prompt(
        "{image} Provide the bounding box coordinate of the region this sentence describes: {sentence}.", "text"
    ),
    "label_map": Prompt("{image}{caption}", "image"),
    "story": Prompt("{sentence}{image}", "auto", round="{sentence}{image}"),
}
"""Each task's prompt. A story goes on from one or more pairs of a sentence and its image."""


def prompt_for(task: str) -> Prompt:
    """The prompt of a task.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(task, str) or task not in PROMPTS:
        raise ValueError(f"task is {task!a}; expected one of {', '.join(PROMPTS)}.")
    return PROMPTS[task]


def _num_slots(template: str) -> int:
    return sum(slot is not None for _, slot, _, _ in Formatter().parse(template))


def _append(segments: list[PromptSegment], text: str) -> None:
    """Append text to the segments."""
    if segments and isinstance(segments[-1], str):
        segments[-1] += text
    elif text:
        segments.append(text)
