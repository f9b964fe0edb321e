"""Images that the model drew from a sentence."""

from __future__ import annotations

from html import escape

from trainer.data.document import Document, Text
from trainer.demo.content import Demo
from trainer.demo.images import img
from trainer.demo.sections.marks import mark

NUM_DRAWN = 8


def section(demo: Demo) -> str:
    if "draw" not in demo.live.tasks:
        return ""
    drawn = demo.live.tasks["draw"].answered[:NUM_DRAWN]
    figures = "".join(
        f"<figure>{img(one.answer, 'drawn by the model')}<figcaption>{mark(one.right)} "
        f"{escape(_sentence(one.document))}</figcaption></figure>"
        for one in drawn
        if not isinstance(one.answer, str)
    )
    return (
        f'<p>The model draws what the sentence says.</p><div class="gallery">{figures}</div>'
        f'<p class="note">The first {len(drawn)} held-out examples, not the best ones. ✓: the right things in their '
        "places, no others, and the right background.</p>"
    )


def _sentence(document: Document) -> str:
    return "".join(segment.text for segment in document.segments if isinstance(segment, Text))
