"""The page that `make demo` writes: one HTML file without anything from outside.

Everything shown comes in as a `Demo`; this file only says how it looks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image as PILImage

from models.generation.boxes import Box
from trainer.data.document import Document, Segment, Text
from trainer.demo_charts import Curve, loss_chart, shared_range
from trainer.evaluate import Answered, Evaluation, Written, shrunk_picture
from trainer.exams import EXAMS, Exam, true_picture
from trainer.scores import Score, read_box

TEMPLATE = Path(__file__).with_name("demo_page.html")
NUM_EXAMPLES = 6
"""Documents of each family in the gallery: the first ones."""

NUM_HERO = 8


@dataclass(frozen=True, eq=False)
class Run:
    """A training run's losses."""

    title: str
    text: Curve
    image: Curve


@dataclass(frozen=True, eq=False)
class Story:
    """A document that the model went on with by itself."""

    prompt: tuple[Segment, ...]
    written: tuple[Written, ...]


@dataclass(frozen=True, eq=False)
class Look:
    """Where one query of the language model samples a picture."""

    picture: np.ndarray
    """uint8 [H, W, 3]."""

    question: str
    answer: str
    points: tuple[tuple[float, float, float], ...]
    """(x, y, weight): places in [0, 1], and the share of the attention there."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """Scores of a model that does not travel with the repository."""

    scores: Mapping[str, Mapping[str, Score]]
    training: Mapping[str, Any]
    """Command, steps, minutes and environment of its training."""


@dataclass(frozen=True, eq=False)
class Demo:
    """All that the page shows."""

    live: Evaluation
    """Of the weights that this demo trained."""

    shipped: Evaluation | None
    """Of the weights that it started from; None: it started from random ones."""

    without_mmfs: Recorded | None
    """Of the same model, trained as the shipped weights were but without MMFS."""

    runs: tuple[Run, ...]
    stories: tuple[Story, ...]
    looks: tuple[Look, ...]
    export: Mapping[str, Any]
    """The manifest of `python -m export.trt`."""

    made_by: Mapping[str, Any] | None
    """How the shipped weights were made: training.json."""

    commands: Mapping[str, str]
    """What this demo ran, in words and as commands."""

    environment: Mapping[str, Any]
    wall_times_s: Mapping[str, float]


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


def inline_png(picture: np.ndarray | PILImage.Image) -> str:
    """A picture (uint8 [H, W, 3], or PIL) as a data URI."""
    image = picture if isinstance(picture, PILImage.Image) else PILImage.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _picture(picture: np.ndarray | PILImage.Image, alt: str) -> str:
    return f'<img src="{inline_png(picture)}" alt="{escape(alt)}">'


def _lead(demo: Demo) -> str:
    millions = demo.live.weights["num_parameters"] / 1e6
    return (
        f'<p class="lead">MM-Interleaved at toy size: {millions:.1f} million parameters that read pictures of emoji, '
        "write about them, and draw new ones, in one sequence of text and images. Its language model and its image "
        "decoder look back at the pixels of all earlier pictures through MMFS, a deformable attention over several "
        "images and scales.</p>"
    )


def _hero(demo: Demo) -> str:
    results = [demo.live.tasks[task].answered for task in ("draw", "story") if task in demo.live.tasks]
    drawn = [one for answered in results for one in answered[: NUM_HERO // len(results)]]
    figures = "".join(
        f"<figure>{_picture(one.answer, 'drawn by the model')}"
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


def _scores(demo: Demo) -> str:
    columns: list[tuple[str, Callable[[str, str], Score | None]]] = []
    if (bare := demo.without_mmfs) is not None:
        columns.append(("trained<br>without MMFS", lambda task, name: bare.scores.get(task, {}).get(name)))
    if demo.shipped is not None:
        columns.append(("shipped weights", lambda task, name: _measured(demo.shipped, task, name)))
    columns.append(("after live training", lambda task, name: _measured(demo.live, task, name)))
    rows = []
    for task, result in demo.live.tasks.items():
        for place, (name, score) in enumerate(result.scores.items()):
            first = f'<span class="what">{EXAMS[task].title}</span>' if place == 0 else ""
            chance = "–" if score.chance is None else f"{100 * score.chance:.1f}"
            cells = "".join(
                f'<td class="score">{_score_cell(get(task, name), score.chance, plain=column < len(columns) - 1)}</td>'
                for column, (_, get) in enumerate(columns)
            )
            rows.append(
                f"<tr{' class=group' if place == 0 else ''}><td>{first}</td>"
                f"<td>{escape(EXAMS[task].labels[name])}</td>"
                f'<td class="number">{score.num_documents}</td><td class="number">{chance}</td>{cells}</tr>'
            )
    head = "".join(f'<th class="score">{title}</th>' for title, _ in columns)
    lowest = min(score.ceiling for result in demo.live.tasks.values() for score in result.scores.values())
    explained = ""
    if demo.without_mmfs is not None:
        steps = demo.without_mmfs.training["steps"].get("main", 0)
        explained = (
            '<p class="note">“Trained without MMFS” is the same model on the same documents, from the same image '
            f"encoder, for {steps:,} steps, with no MMFS layer in its language model and its image decoder. It was "
            "recorded when the shipped weights were made; the command is at the end of the page.</p>"
        )
    return (
        '<p class="note">Per cent, ± one standard error, on held-out documents: each shows a sprite on a colour, or '
        "two sprites together, that no training picture shows. The line in each bar is chance: the score of answering "
        "each document with another one’s right answer, by the same scorer. The truth given as an answer "
        f"scores {'100 everywhere' if lowest == 1 else f'at least {100 * lowest:.0f}'}.</p>"
        '<p class="note">A drawn sprite counts as the one of the '
        f"{demo.live.settings.num_concepts} sprites whose pixels are nearest, compared at its true place and size, "
        "moved by up to 2 pixels, mirrored or not; a background as the nearest of 8 named colours.</p>"
        f'<div class="panel"><table><thead><tr><th>task</th><th>score</th><th class="number">documents</th>'
        f'<th class="number">chance</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{explained}'
    )


def _measured(evaluation: Evaluation | None, task: str, name: str) -> Score | None:
    return evaluation.tasks[task].scores.get(name) if evaluation is not None and task in evaluation.tasks else None


def _score_cell(score: Score | None, chance: float | None, *, plain: bool) -> str:
    if score is None:
        return "–"
    tick = "" if chance is None else f'<b style="left:{100 * chance:.1f}%"></b>'
    return (
        f"{100 * score.mean:.0f} <small>± {100 * score.standard_error:.0f}</small>"
        f'<div class="bar{" plain" if plain else ""}"><i style="width:{100 * score.mean:.1f}%"></i>{tick}</div>'
    )


def _losses(demo: Demo) -> str:
    rows = []
    for kind, title in (("text", "text loss, nats a token"), ("image", "image loss, squared error")):
        curves = [(run.title, getattr(run, kind)) for run in demo.runs if getattr(run, kind).values]
        if not curves:
            continue
        y_range = shared_range([curve for _, curve in curves])
        rows += [
            f"<figure><figcaption>{escape(run)}: {title}</figcaption>{loss_chart(curve, y_range=y_range)}</figure>"
            for run, curve in curves
        ]
    if not rows:
        return ""
    return (
        '<p class="note">Each step faintly, the running mean over 2 % of the run on top; logarithmic, over steps.</p>'
        f'<div class="panel charts">{"".join(rows)}</div>'
    )


def _gallery(demo: Demo) -> str:
    parts = [
        f'<p class="note">The first {NUM_EXAMPLES} validation documents of each family, chosen by number before '
        "anything was scored. ✓ marks an answer with a full headline score, ✗ any other. Pictures to read have 64 "
        "pixels a side, drawn ones 32; all are enlarged.</p>"
    ]
    for task, result in demo.live.tasks.items():
        exam = EXAMS[task]
        shipped = demo.shipped.tasks[task].answered if demo.shipped is not None else (None,) * len(result.answered)
        cards = "".join(
            _card(exam, live, before)
            for live, before in list(zip(result.answered, shipped, strict=True))[:NUM_EXAMPLES]
        )
        wide = " wide" if exam.kind == "picture" or task == "compare" else ""
        parts.append(f'<h3>{exam.title}</h3><p class="note">{exam.given}</p><div class="cards{wide}">{cards}</div>')
    return "".join(parts)


def _card(exam: Exam, live: Answered, shipped: Answered | None) -> str:
    document = live.document
    answers = [("shipped", shipped)] * (shipped is not None) + [("live" if shipped is not None else "model", live)]
    if exam.kind == "text":
        said = "".join(
            f"<dt>{who}</dt><dd>{escape(str(one.answer)) or '<i>nothing</i>'} {_mark(one.right)}</dd>"
            for who, one in answers
            if one is not None
        )
        made = f'<dl class="answers"><dt>truth</dt><dd>{escape(document.truth["answer"])}</dd>{said}</dl>'
    else:
        assert not isinstance(live.answer, str)
        truth = shrunk_picture(true_picture(document).pixels, live.answer.width)
        figures = [f"<figure>{_picture(truth, 'the truth')}<figcaption>truth</figcaption></figure>"]
        figures += [
            f"<figure>{_picture(one.answer, 'drawn by the model')}<figcaption>{who} {_mark(one.right)} "
            f"{_details(one.scores)}</figcaption></figure>"
            for who, one in answers
            if one is not None and not isinstance(one.answer, str)
        ]
        made = f'<div class="drawn">{"".join(figures)}</div>'
    boxes = [read_box(document.truth["answer"]), read_box(str(live.answer))] if "box" in document.truth else []
    return (
        f'<article class="card"><div class="given">{_given(exam.prompt(document), boxes)}</div>{made}'
        f'<div class="key">{escape(document.key)}</div></article>'
    )


def _given(segments: Iterable[Segment], boxes: Sequence[Box | None]) -> str:
    """Each picture with the text before it above it; text after the last picture as a paragraph."""
    parts, before = [], ""
    for segment in segments:
        if isinstance(segment, Text):
            before += segment.text
            continue
        picture = f'<div class="picture">{_picture(segment.pixels, "given")}{_overlay(boxes)}</div>'
        parts.append(
            f"<figure><figcaption>{escape(before.strip())}</figcaption>{picture}</figure>" if before else picture
        )
        before = ""
    return "".join(parts) + (f"<p>{escape(before.strip())}</p>" if before else "")


def _overlay(boxes: Sequence[Box | None]) -> str:
    """The true box solid, the written one dashed on top."""
    if not boxes:
        return ""
    drawn = "".join(
        f'<rect class="{kind}" x="{box[0]}" y="{box[1]}" width="{box[2] - box[0]}" height="{box[3] - box[1]}"/>'
        for kind, box in zip(("true", "said"), boxes, strict=True)
        if box is not None
    )
    return f'<svg viewBox="0 0 1 1">{drawn}</svg>'


def _mark(right: bool) -> str:
    return '<span class="mark right">✓</span>' if right else '<span class="mark wrong">✗</span>'


def _details(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.0f}" for name, value in scores.items())


def _stories(demo: Demo) -> str:
    if not demo.stories:
        return ""
    cards = "".join(f'<div class="panel told">{_told(story)}</div>' for story in demo.stories)
    return (
        '<p class="note">The model got the first sentence only. Everything marked in blue is its own, in this order: '
        "it draws a picture, reads it back, writes the next sentence, draws again, and decides itself when to draw "
        "and when to stop.</p>" + cards
    )


def _told(story: Story) -> str:
    """Pictures with the text before them; what the model made is marked."""
    parts, before = [], ""
    told = [(segment.text if isinstance(segment, Text) else segment.pixels, False) for segment in story.prompt]
    for segment, is_own in [*told, *((written, True) for written in story.written)]:
        mark = ' class="made"' if is_own else ""
        if isinstance(segment, str):
            before += f"<span{mark}>{escape(segment.strip())}</span> "
            continue
        picture = f"<div{mark}>{_picture(segment, 'drawn by the model' if is_own else 'given')}</div>"
        parts.append(f"<figure><figcaption>{before}</figcaption>{picture}</figure>")
        before = ""
    return "".join(parts) + (f"<figure><figcaption>{before}</figcaption></figure>" if before else "")


def _looks(demo: Demo) -> str:
    if not demo.looks:
        return ""
    cards = "".join(
        f'<article class="card"><div class="given"><div class="picture look">{_picture(look.picture, "given")}'
        f"{_dots(look)}</div><p>{escape(look.question.strip())}<br><b>{escape(look.answer)}</b></p></div></article>"
        for look in demo.looks
    )
    return (
        '<p class="note">All MMFS layers of the language model at the last word of the question, where the first digit '
        "of the answer is decided. Each dot is a sampling point, its area the attention it gets. The reference point "
        f'of text is the centre of the picture; the rest is learned.</p><div class="cards">{cards}</div>'
    )


def _dots(look: Look) -> str:
    largest = max((weight for _, _, weight in look.points), default=0) or 1.0
    dots = "".join(
        f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{0.004 + 0.035 * (weight / largest) ** 0.5:.4f}"/>'
        for x, y, weight in look.points
        if 0 <= x <= 1 and 0 <= y <= 1
    )
    return f'<svg viewBox="0 0 1 1">{dots}</svg>'


def _export(demo: Demo) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        f'<td class="number">{component["num_nodes"]}</td>'
        f'<td class="number">{sum(component["num_mmfs_nodes"].values()) or "–"}</td>'
        f'<td class="number">{component["onnx"]["bytes"] / 1e6:.1f} MB</td>'
        f'<td class="number">{component["validation"]["max_relative_error"]:.1e}</td></tr>'
        for name, component in demo.export["components"].items()
    )
    return (
        '<p class="note">The live-trained model as ONNX, each component run in onnxruntime and compared with PyTorch '
        f"on real input: {escape(demo.export['samples'])}. MMFS is one node with a function body.</p>"
        '<div class="panel"><table><thead><tr><th>component</th><th class="number">nodes</th>'
        '<th class="number">of them MMFS</th><th class="number">size</th>'
        '<th class="number">largest relative error</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _origin(demo: Demo) -> str:
    facts = {
        "Live-trained weights": f"<code>{demo.live.weights['sha256'][:16]}</code> trained by this demo, "
        + ("going on from the shipped ones" if demo.shipped is not None else "from random weights"),
    }
    if demo.shipped is not None:
        facts["Shipped weights"] = f"<code>{demo.shipped.weights['sha256'][:16]}</code>"
    for name, value in (demo.made_by or {}).items():
        words = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        facts[f"Their {escape(name.replace('_', ' '))}"] = f"<code>{escape(words)}</code>"
    if demo.without_mmfs is not None:
        facts["Without MMFS"] = f"<code>{escape(str(demo.without_mmfs.training['command']))}</code>"
    facts["Which weights drew what"] = (
        "top of the page, stories and sampling points: the live-trained weights; the gallery says which."
    )
    settings = demo.live.settings
    facts["Evaluation"] = (
        f"validation documents 0 to {settings.num_texts - 1} (text) and 0 to {settings.num_pictures - 1} (pictures) of "
        f"each family; greedy text; pictures with {settings.num_steps} denoising steps, guidance "
        f"{settings.guidance_scale:g}, noise seeds from {settings.seed}"
    )
    facts["Machine and versions"] = ", ".join(f"{escape(k)} {escape(str(v))}" for k, v in demo.environment.items())
    facts["Time"] = ", ".join(f"{escape(what)} {_duration(spent)}" for what, spent in demo.wall_times_s.items())
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<dl class="facts">{listed}</dl><h3>Commands of this run</h3>{_commands(demo.commands)}'


def _commands(commands: Any) -> str:
    lines = commands.values() if isinstance(commands, Mapping) else [commands]
    return f"<pre>{escape(chr(10).join(str(line) for line in lines if line))}</pre>"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


SECTIONS: tuple[tuple[str, str, Callable[[Demo], str]], ...] = (
    ("scores", "Scores", _scores),
    ("losses", "Losses", _losses),
    ("gallery", "Held-out documents", _gallery),
    ("stories", "Told by the model alone", _stories),
    ("looks", "Where MMFS looks", _looks),
    ("export", "As ONNX", _export),
    ("origin", "How this was made", _origin),
)
