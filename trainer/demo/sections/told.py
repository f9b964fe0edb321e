"""What the model told and drew by itself: what it was given, and what it planned, drew and wrote."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from trainer.data.document import Text
from trainer.data.emoji.search_steps import REQUEST
from trainer.demo.content import Demo, Told
from trainer.demo.images import img
from trainer.evaluation.answers import shrunk_image
from trainer.evaluation.tasks import true_image


def stories(demo: Demo) -> str:
    """Stories in four frames."""
    return _section(
        [_told(told) for told in demo.stories],
        "The model gets the first sentence. What is blue is its own, in this order: it plans an image in writing, "
        "draws it, reads it back, writes the next sentence, plans and draws again, and decides itself when to draw and "
        "when to stop. Plans are in italics.",
    )


def label_maps(demo: Demo) -> str:
    """Silhouettes that became images."""
    return _section(
        [_told(told) + _truth(told) for told in demo.label_maps],
        "Coloured silhouettes and a caption: the model plans in writing what stands where (column and row of a "
        "10 × 10 grid), and draws it.",
    )


def _section(cards: Sequence[str], said: str) -> str:
    """The cards below what is said of them; nothing without cards."""
    if not cards:
        return ""
    shown = "".join(f'<div class="panel told">{card}</div>' for card in cards)
    return f'<p>{said}</p><p class="note">The first {len(cards)} held-out examples, not the best ones.</p>{shown}'


def _told(told: Told) -> str:
    """Each image below its sentence and its plan, which is what follows a request for steps; what the model made is
    marked."""
    figures, before, in_plan = [], "", False
    given = ((segment.text if isinstance(segment, Text) else segment.pixels, False) for segment in told.prompt)
    for piece, is_own in [*given, *((written, True) for written in told.written)]:
        if isinstance(piece, str):
            for place, text in enumerate(piece.split(REQUEST)):
                in_plan = in_plan or place > 0
                kinds = " ".join(["made"] * is_own + ["plan"] * in_plan)
                before += f'<span class="{kinds}">{escape(text.strip())}</span> ' if text.strip() else ""
            continue
        image = img(piece, "drawn by the model" if is_own else "given")
        figures.append(f"<figure><figcaption>{before}</figcaption><div{' class=made' * is_own}>{image}</div></figure>")
        before, in_plan = "", False
    return "".join(figures) + (f"<figure><figcaption>{before}</figcaption></figure>" if before else "")


def _truth(told: Told) -> str:
    """The image that the document itself has, at the size of the drawn one; none, if none was drawn."""
    drawn = [written for written in told.written if not isinstance(written, str)]
    if not drawn:
        return ""
    image = shrunk_image(true_image(told.document).pixels, drawn[-1].width)
    return f"<figure><figcaption>right would be</figcaption>{img(image, 'the truth')}</figure>"
