"""Marks on answers: right or wrong, and boxes on an image."""

from __future__ import annotations

from trainer.evaluation.grading import Answered
from trainer.evaluation.text_scores import read_box


def mark(right: bool) -> str:
    """✓ or ✗, with a word for those who hear the page."""
    kind, sign = ("right", "✓") if right else ("wrong", "✗")
    return f'<span class="mark {kind}" role="img" aria-label="{kind}">{sign}</span>'


def boxes(answered: Answered) -> str:
    """The true box, and on it the one that was written if there is one, in units of the image; nothing if no box was
    asked for."""
    if "box" not in answered.document.truth:
        return ""
    read = (read_box(answered.document.truth["answer"]), read_box(str(answered.answer)))
    return "".join(
        f'<rect class="{kind}" x="{box[0]}" y="{box[1]}" width="{box[2] - box[0]}" height="{box[3] - box[1]}"/>'
        for kind, box in zip(("true", "said"), read, strict=True)
        if box is not None
    )
