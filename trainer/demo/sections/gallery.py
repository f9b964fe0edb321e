"""Held-out documents with the truth and what the weights made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from trainer.data.document import Segment, Text
from trainer.demo.content import Demo
from trainer.demo.images import img
from trainer.demo.sections.marks import boxes, mark
from trainer.evaluation.answers import shrunk_image
from trainer.evaluation.grading import Answered
from trainer.evaluation.tasks import EVALUATION_TASKS, Task, true_image

NUM_EXAMPLES = 6
"""Documents of each family in the gallery: the first ones."""


def section(demo: Demo) -> str:
    parts = [
        f'<p class="note">The first {NUM_EXAMPLES} validation documents of each family, chosen by number before '
        "anything was scored. ✓ marks an answer with a full headline score, ✗ any other. Images to read have 64 "
        "pixels a side, drawn ones 32; all are enlarged.</p>"
    ]
    for task, result in demo.live.tasks.items():
        definition = EVALUATION_TASKS[task]
        shipped = demo.shipped.tasks[task].answered if demo.shipped is not None else (None,) * len(result.answered)
        cards = "".join(
            _card(definition, live, before)
            for live, before in list(zip(result.answered, shipped, strict=True))[:NUM_EXAMPLES]
        )
        wide = " wide" if definition.kind == "image" or task in ("compare", "compare_steps") else ""
        parts.append(
            f"<details><summary>{definition.title}</summary>"
            f'<p class="note">{definition.given}</p><div class="cards{wide}">{cards}</div></details>'
        )
    return "".join(parts)


def _card(definition: Task, live: Answered, shipped: Answered | None) -> str:
    document = live.document
    answers = [("shipped", shipped)] * (shipped is not None) + [("live" if shipped is not None else "model", live)]
    if definition.kind == "text":
        said = "".join(
            f"<dt>{who}</dt><dd>{escape(str(one.answer)) or '<i>nothing</i>'} {mark(one.right)}</dd>"
            for who, one in answers
            if one is not None
        )
        made = f'<dl class="answers"><dt>truth</dt><dd>{escape(document.truth["answer"])}</dd>{said}</dl>'
    else:
        assert not isinstance(live.answer, str)
        truth = shrunk_image(true_image(document).pixels, live.answer.width)
        figures = [f"<figure>{img(truth, 'the truth')}<figcaption>truth</figcaption></figure>"]
        figures += [
            f"<figure>{img(one.answer, 'drawn by the model')}<figcaption>{who} {mark(one.right)} "
            f"{_details(one.scores)}</figcaption></figure>"
            for who, one in answers
            if one is not None and not isinstance(one.answer, str)
        ]
        made = f'<div class="drawn">{"".join(figures)}</div>'
    return (
        f'<article class="card"><div class="given">{_given(definition.prompt(document), boxes(live))}</div>{made}'
        f'<div class="key">{escape(document.key)}</div></article>'
    )


def _given(segments: Iterable[Segment], drawn: str) -> str:
    """Each image with the text before it above it; text after the last image as a paragraph."""
    overlay = f'<svg viewBox="0 0 1 1">{drawn}</svg>' if drawn else ""
    parts, before = [], ""
    for segment in segments:
        if isinstance(segment, Text):
            before += segment.text
            continue
        image = f'<div class="image">{img(segment.pixels, "given")}{overlay}</div>'
        parts.append(f"<figure><figcaption>{escape(before.strip())}</figcaption>{image}</figure>" if before else image)
        before = ""
    return "".join(parts) + (f"<p>{escape(before.strip())}</p>" if before else "")


def _details(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {100 * value:.0f}" for name, value in scores.items())
