"""The sampling locations of MMFS on top of the image."""

from __future__ import annotations

from html import escape

from trainer.demo.content import Demo, SampledImage
from trainer.demo.images import img


def section(demo: Demo) -> str:
    if not demo.sampled_images:
        return ""
    cards = "".join(
        f'<article class="card"><div class="given"><div class="image sampled">{img(sampled.image, "given")}'
        f"{_dots(sampled)}</div><p>{escape(sampled.question.strip())}<br><b>{escape(sampled.answer)}</b></p></div></article>"
        for sampled in demo.sampled_images
    )
    return (
        '<p class="note">All MMFS layers of the language model at the last word of the question, where the first digit '
        "of the answer is decided. Each dot is a sampling point, its area the attention it gets. The reference point "
        f'of text is the centre of the image; the rest is learned.</p><div class="cards">{cards}</div>'
    )


def _dots(sampled: SampledImage) -> str:
    largest = max((weight for _, _, weight in sampled.points), default=0) or 1.0
    dots = "".join(
        f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{0.004 + 0.035 * (weight / largest) ** 0.5:.4f}"/>'
        for x, y, weight in sampled.points
        if 0 <= x <= 1 and 0 <= y <= 1
    )
    return f'<svg viewBox="0 0 1 1">{dots}</svg>'
