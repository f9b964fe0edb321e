"""The page that `make demo` writes: one HTML file that needs nothing from outside.

Everything shown comes in as a `Demo`; the page only says how it looks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import Template

from trainer.demo.content import Demo
from trainer.demo.sections import answers, drawn, export, gallery, losses, origin, scores, told

TEMPLATE = Path(__file__).with_name("page.html")
SCRIPT = Path(__file__).with_name("stepping.js")

SECTIONS: tuple[tuple[str, str, Callable[[Demo], str]], ...] = (
    ("number", "Which number is it?", answers.number),
    ("images", "Which of several images?", answers.several_images),
    ("box", "Where is it?", answers.box),
    ("caption", "What is it?", answers.caption),
    ("stories", "A story", told.stories),
    ("maps", "From silhouettes", told.label_maps),
    ("drawn", "From a sentence", drawn.section),
    ("scores", "Scores", scores.section),
    ("gallery", "Held-out documents", gallery.section),
    ("losses", "Losses", losses.section),
    ("export", "As ONNX", export.section),
    ("origin", "How this was made", origin.section),
)


def render_page(demo: Demo) -> str:
    """The page as HTML."""
    made = [(name, title, make(demo)) for name, title, make in SECTIONS]
    shown = [(name, title, content) for name, title, content in made if content]
    first, *rest = (f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in shown)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        lead=_lead(demo),
        styles=answers.styles(demo),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown),
        first=first,
        rest="\n".join(rest),
        script=SCRIPT.read_text(encoding="utf-8"),
    )


def _lead(demo: Demo) -> str:
    millions = demo.live.weights["num_parameters"] / 1e6
    return (
        f'<p class="lead">{millions:.1f} million parameters read images, answer questions and draw. For each word that '
        "it writes, the model looks again at a few points of the images, through MMFS. Watch where.</p>"
    )
