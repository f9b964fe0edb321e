"""The page that `make demo` writes: one HTML file without anything from outside.

Everything shown comes in as a `Demo`; the page only says how it looks.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template

from trainer.data.document import Document, Text
from trainer.demo.content import Demo
from trainer.demo.images import img
from trainer.demo.sections import export, gallery, losses, origin, sampling_locations, scores, stories

TEMPLATE = Path(__file__).with_name("page.html")
NUM_HERO = 8

SECTIONS: tuple[tuple[str, str, Callable[[Demo], str]], ...] = (
    ("scores", "Scores", scores.section),
    ("losses", "Losses", losses.section),
    ("gallery", "Held-out documents", gallery.section),
    ("stories", "Told by the model alone", stories.section),
    ("locations", "Sampling locations of MMFS", sampling_locations.section),
    ("export", "As ONNX", export.section),
    ("origin", "How this was made", origin.section),
)


def render_page(demo: Demo) -> str:
    """The page as HTML."""
    sections = [(name, title, make(demo)) for name, title, make in SECTIONS]
    shown = [(name, title, content) for name, title, content in sections if content]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        lead=_lead(demo),
        hero=_hero(demo),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown),
        sections="\n".join(
            f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in shown
        ),
    )


def _lead(demo: Demo) -> str:
    millions = demo.live.weights["num_parameters"] / 1e6
    return (
        f'<p class="lead">MM-Interleaved at toy size: {millions:.1f} million parameters that read images of emoji, '
        "write about them, and draw new ones, in one sequence of text and images. Its language model and its image "
        "decoder attend to the pixels of all earlier images through MMFS, a deformable attention over several "
        "images and scales.</p>"
    )


def _hero(demo: Demo) -> str:
    results = [demo.live.tasks[task].answered for task in ("draw", "story") if task in demo.live.tasks]
    drawn = [one for answered in results for one in answered[: NUM_HERO // len(results)]]
    figures = "".join(
        f"<figure>{img(one.answer, 'drawn by the model')}"
        f"<figcaption>{escape(_last_text(one.document))}</figcaption></figure>"
        for one in drawn
        if not isinstance(one.answer, str)
    )
    if not figures:
        return ""
    return (
        f'<div class="hero">{figures}</div><p class="note">Drawn by this run’s weights from the sentence below each '
        "(of a story, the last of four). The first held-out documents, not the best ones.</p>"
    )


def _last_text(document: Document) -> str:
    return [segment.text for segment in document.segments if isinstance(segment, Text)][-1].strip()
