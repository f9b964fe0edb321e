"""An answer in text on the page: the images, the words, and where the model looked for each word.

A word is a radio button, so it is chosen by a click or by the arrow keys; rules of CSS show what belongs to the chosen
one. Only the buttons beside the words, which also play them, need the script of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from trainer.data.document import Document, Image, Text
from trainer.demo.content import LocatedAnswer
from trainer.demo.images import img
from trainer.demo.sections.marks import boxes, mark
from trainer.evaluation.grading import Answered
from trainer.evaluation.tasks import EVALUATION_TASKS

SHARED_AREA = 0.015
"""Of a circle that has all of the attention, in units of the image."""

LIGHT_RADIUS = 0.11
"""Around a sampling point, what is lit of the darkened image, in units of the image."""

FULL_LIGHT = 0.06
"""The share of all attention from which on a point is lit fully; light of several points adds up."""


def rules(num_words: int) -> str:
    """The CSS that shows what belongs to the chosen one of so many words."""
    return "".join(f".located:has(.word{n} :checked) .step.word{n}{{display:inline}}" for n in range(num_words))


def light() -> str:
    """What lights the image around a point: it stands in a page once."""
    return (
        '<svg class="unseen" aria-hidden="true"><radialGradient id="light"><stop stop-color="#000"/>'
        '<stop offset=".5" stop-color="#000" stop-opacity=".75"/><stop offset="1" stop-color="#000" stop-opacity="0"/>'
        "</radialGradient></svg>"
    )


def located_answer(located: LocatedAnswer, name: str, without_mmfs: Answered | None) -> str:
    """The answer with its images.

    Args:
        located: the answer.
        name: differs from that of every other answer on the page.
        without_mmfs: what the model without MMFS wrote to the same document.
    """
    document = located.answered.document
    prompt = EVALUATION_TASKS[document.task].prompt(document)
    images = [segment for segment in prompt if isinstance(segment, Image)]
    last = max(place for place, segment in enumerate(prompt) if isinstance(segment, Image))
    question = "".join(segment.text for segment in prompt[last:] if isinstance(segment, Text)).strip()
    figures = "".join(_figure(located, place, image, f"{name}-{place}") for place, image in enumerate(images))
    shown = f'<div class="seen{" several" if len(images) > 1 else ""}">{figures}</div>'
    verdict = f'<p class="verdict">{_verdict(located.answered)}</p>'
    return (
        f'<article class="located">{shown}<div>{_words(located, name, question)}{_buttons()}'
        f"{_captions(located)}{verdict}{_without_mmfs(without_mmfs)}</div></article>"
    )


def _figure(located: LocatedAnswer, place: int, image: Image, name: str) -> str:
    """An image, and over it for each word what was looked at, and with the last word, which is the box, the boxes."""
    all_facts = located.answered.document.truth["images"]
    is_one_of_several = len(all_facts) > 1
    layers = ""
    for number, word in enumerate(located.words):
        points, share = word.points[place], word.shares[place]
        frame = f'<rect class="frame" width="1" height="1" stroke-opacity="{share:.2f}"/>' if is_one_of_several else ""
        layers += f'<g class="step word{number}">{_lit(points, f"{name}-{number}")}{frame}</g>'
    if drawn := boxes(located.answered):
        layers += f'<g class="step word{len(located.words) - 1}">{drawn}</g>'
    caption = ""
    if is_one_of_several:
        shares = "".join(
            f'<span class="step word{number}">{100 * word.shares[place]:.0f} %</span>'
            for number, word in enumerate(located.words)
        )
        caption = f"<figcaption>image {place + 1} <b>{shares}</b></figcaption>"
    return (
        f'<figure><div class="image">{img(image.pixels, _described(all_facts[place]))}'
        f'<svg viewBox="0 0 1 1" aria-hidden="true">{layers}</svg></div>{caption}</figure>'
    )


def _described(facts: dict[str, Any]) -> str:
    """What an image shows, in words: "On gray: guitar with number 71, penguin with number 43"."""
    things = (
        thing["name"] + (f" with number {thing['number']}" if thing["number"] is not None else "")
        for thing in facts["objects"]
    )
    return f"On {facts['background']}: {', '.join(things)}"


def _lit(points: Sequence[tuple[float, float, float]], name: str) -> str:
    """The image darkened but for where the attention goes, and a dot at each sampling point."""
    lights, dots = "", ""
    for x, y, weight in points:
        centre = f'cx="{x:.3f}" cy="{y:.3f}"'
        lights += f'<circle {centre} r="{LIGHT_RADIUS}" opacity="{min(1.0, weight / FULL_LIGHT):.2f}"/>'
        dots += f'<circle {centre} r="{0.003 + (SHARED_AREA * weight) ** 0.5:.4f}"/>'
    return (
        f'<mask id="dark-{name}"><rect width="1" height="1" fill="#fff"/><g fill="url(#light)">{lights}</g></mask>'
        f'<rect class="dark" width="1" height="1" mask="url(#dark-{name})"/><g class="dots">{dots}</g>'
    )


def _words(located: LocatedAnswer, name: str, question: str) -> str:
    """The words to choose from, the last one chosen; what follows the search in writing stands out."""
    texts = [word.text for word in located.words]
    search = max((place + 1 for place, text in enumerate(texts) if text.endswith(":")), default=0)
    words = "".join(
        f'<label class="word{place}{" answer" if 0 < search <= place else ""}"><input type="radio" name="{name}"'
        f"{' checked' * (place == len(texts) - 1)}><span>{escape(text)}</span></label> "
        for place, text in enumerate(texts)
    )
    return f'<fieldset class="words"><legend>{escape(question)}</legend>{words or "<i>nothing</i>"}</fieldset>'


def _buttons() -> str:
    """Hidden until the script of the page makes them work."""
    return (
        '<div class="stepper" hidden><button type="button" data-step="-1" aria-label="Previous word">←</button>'
        '<button type="button" class="play">Play</button>'
        '<button type="button" data-step="1" aria-label="Next word">→</button></div>'
    )


def _captions(located: LocatedAnswer) -> str:
    """What the overlay shows, for each word."""
    captions = "".join(
        f'<span class="step word{number}">Where it looked to write <b>{escape(word.text.rstrip(":,"))}</b>: '
        f"{100 * sum(word.shares):.0f} % of its attention went to the image{'s' * (len(word.shares) > 1)}.</span>"
        for number, word in enumerate(located.words)
    )
    return f'<p class="looked">{captions}</p>'


def _verdict(answered: Answered) -> str:
    """Whether an answer is right; if not, what is."""
    if answered.right:
        return f"{mark(True)} right"
    return f"{mark(False)} wrong; right is {escape(right_answer(answered.document))}"


def right_answer(document: Document) -> str:
    """The answer itself, without a search in writing before it."""
    return str(document.truth["answer"]).rpartition(": ")[2]


def _without_mmfs(answered: Answered | None) -> str:
    if answered is None:
        return ""
    return (
        '<div class="bare"><h4>The same question, to the model trained without MMFS</h4>'
        f"<p>{escape(str(answered.answer)) or '<i>nothing</i>'}</p><p>{_verdict(answered)}</p></div>"
    )
