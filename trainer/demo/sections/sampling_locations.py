"""The sampling locations of MMFS on top of the images, word by word of an answer.

A word is chosen by pointing at it, or by the arrow keys, since words are radio buttons; rules of CSS show what belongs
to it, so that the page needs no program.
"""

from __future__ import annotations

from html import escape

from trainer.data.document import Text
from trainer.demo.content import Demo, LocatedAnswer
from trainer.demo.images import img

SHARED_AREA = 0.02
"""Of a circle that has all of the attention, in units of the image."""


def section(demo: Demo) -> str:
    if not demo.located_answers:
        return ""
    cards = "".join(_card(number, located) for number, located in enumerate(demo.located_answers))
    num_words = max(len(located.words) for located in demo.located_answers)
    return (
        f"<style>{''.join(map(_rule, range(num_words)))}</style>"
        '<p class="note">What all MMFS layers of the language model sample while it writes each word of its answer. '
        "Point at a word, or step through the words with the arrow keys. Each dot is a sampling point, its area the "
        "attention it gets; below an image is the share of all attention that it gets, and the rest goes nowhere. The "
        "reference point of text is the centre of every image; the rest is learned.</p>"
        f'<div class="cards wide">{cards}</div>'
    )


def _rule(number: int) -> str:
    """Show what belongs to the word with this number: the one pointed at, else the chosen one."""
    word = f".word{number}"
    return (
        f".located:has(label{word}:hover) .step{word},"
        f".located:not(:has(label:hover)):has(label{word} :checked) .step{word}{{display:inline}}"
    )


def _card(number: int, located: LocatedAnswer) -> str:
    images = [segment for segment in located.prompt if not isinstance(segment, Text)]
    shown = "".join(_figure(place, img(image.pixels, "given"), located) for place, image in enumerate(images))
    question = "".join(segment.text for segment in located.prompt if isinstance(segment, Text)).strip()
    words = "".join(
        f'<label class="word{place}"><input type="radio" name="located{number}"{" checked" * (place == 0)}>'
        f"<span>{escape(word.text)}</span></label> "
        for place, word in enumerate(located.words)
    )
    return (
        f'<article class="card located"><div class="given">{shown}</div>'
        f'<fieldset class="words"><legend>{escape(question)}</legend>{words or "<i>nothing</i>"}</fieldset></article>'
    )


def _figure(place: int, image: str, located: LocatedAnswer) -> str:
    """An image with the points of every word on it, and their share of the attention below it."""
    dots, shares = "", ""
    for number, word in enumerate(located.words):
        dots += f'<g class="step word{number}">{_dots(word.points[place])}</g>'
        shares += f'<span class="step word{number}">{100 * word.shares[place]:.0f} %</span>'
    return (
        f'<figure><div class="image sampled">{image}<svg viewBox="0 0 1 1">{dots}</svg></div>'
        f"<figcaption>{shares}</figcaption></figure>"
    )


def _dots(points: tuple[tuple[float, float, float], ...]) -> str:
    return "".join(
        f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{0.004 + (SHARED_AREA * weight) ** 0.5:.4f}"/>'
        for x, y, weight in points
    )
