"""A page that shows what a figure means: the worst and the best samples, as images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image as PILImage

from models.atomic_files import write_atomically
from trainer.benchmarks.image_files import open_image
from trainer.benchmarks.predictions import Answered
from trainer.benchmarks.result import Result, in_words
from trainer.benchmarks.run import PAGE_FILE, Run
from trainer.benchmarks.sample import DrawnBefore, ImageFile, Sample
from trainer.benchmarks.scoring import Scores

TEMPLATE = Path(__file__).with_name("page.html")
NUM_SHOWN = 12
"""Of the worst, and of the best."""

SIDE = 320
MAX_TEXT = 400
MAX_IMAGES = 4
"""Of one sample."""


def write_page(run: Run, result: Result, scores: Scores, found: Mapping[str, Answered]) -> Path:
    """Write a benchmark's page into its folder."""
    order = sorted(scores.by_sample, key=lambda key: scores.by_sample[key])
    samples = {sample.id: sample for sample in run.samples}
    shown = []
    worst, best = order[:NUM_SHOWN], order[::-1][:NUM_SHOWN]
    if not order:  # the metric says nothing of single samples
        shown.append(_section(run, "Some samples", "", list(samples)[:NUM_SHOWN], samples, found, scores))
    elif len(order) <= 2 * NUM_SHOWN:
        shown.append(_section(run, "All samples, the worst first", "worst", order, samples, found, scores))
    else:
        shown.append(_section(run, "The worst samples", "worst", worst, samples, found, scores))
        shown.append(_section(run, "The best samples", "best", best, samples, found, scores))
    part = f" of {result.n_split:,}" if result.n < result.n_split else ""
    paper = [
        f"{name} {value:g}"
        for name, value in (("zero-shot", result.paper_zero_shot), ("fine-tuned", result.paper_tuned))
        if value is not None
    ]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(result.title),
        subtitle=escape(f"{result.split}, {result.n:,}{part} samples; {result.metric}"),
        figure=escape(("" if result.is_comparable else "≈ ") + in_words(result.value, result.standard_error)),
        beside=escape(f"The paper's model of 13 billion parameters ({result.paper_where}): {', '.join(paper)}.")
        if paper
        else "",
        deviations=_list("What differs from the paper's set-up", result.deviations)
        + _list("What else to know", result.notes),
        parts=_parts(result.parts),
        samples="\n".join(shown),
    )
    file = run.directory / PAGE_FILE
    write_atomically(file, page)
    return file


def _list(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"<p><b>{title}</b></p><ul>" + "".join(f"<li>{escape(one)}</li>" for one in sentences) + "</ul>"


def _parts(parts: Mapping[str, float]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{in_words(value)}</td></tr>" for name, value in parts.items())
    return f"<table>{rows}</table>" if rows else ""


def _section(
    run: Run,
    title: str,
    kind: str,
    ids: Sequence[str],
    samples: Mapping[str, Sample],
    found: Mapping[str, Answered],
    scores: Scores,
) -> str:
    figures = "\n".join(_figure(run, samples[key], found.get(key), scores.by_sample.get(key)) for key in ids)
    return f'<h2>{title}</h2>\n<div class="samples {kind}">\n{figures}\n</div>'


def _figure(run: Run, sample: Sample, answered: Answered | None, score: float | None) -> str:
    images = [_picture(open_image(image), "given") for image in sample.images[-MAX_IMAGES:]]
    before = [segment for segment in sample.document if isinstance(segment, DrawnBefore)]
    texts = " ".join(segment for segment in sample.document if isinstance(segment, str))
    lines = [f'<p class="score">{in_words(score)}</p>'] if score is not None else []
    lines += [f'<p class="note">{escape(sample.id)}</p>', *images]
    if before:
        lines.append(f'<p class="note">drawn after {len(before)} images that the model drew itself</p>')
    if texts:
        lines.append(f"<p>{escape(_cut(texts))}</p>")
    if answered is not None and run.benchmark.kind == "image":
        lines.append(_picture(open_image(ImageFile(run.image_file(sample.id))), "drawn"))
    elif answered is not None:
        lines.append(f"<p><b>{escape(_cut(_answer(sample, answered)))}</b></p>")
    truth = _truth(sample.truth)
    if truth:
        lines.append(f'<p class="note">true: {escape(_cut(truth))}</p>')
    return "<figure>" + "".join(lines) + "</figure>"


def _answer(sample: Sample, answered: Answered) -> str:
    if isinstance(answered.prediction, str):
        return answered.prediction.strip() or "(nothing)"
    best = max(range(len(answered.prediction)), key=answered.prediction.__getitem__)
    return sample.candidates[best]


def _truth(truth: Mapping[str, Any]) -> str:
    """What the answer should have been, for a person."""
    if "references" in truth:
        return " / ".join(truth["references"])
    if "answers" in truth:
        counts = {answer: truth["answers"].count(answer) for answer in dict.fromkeys(truth["answers"])}
        return ", ".join(f"{answer} ({number})" for answer, number in sorted(counts.items(), key=lambda one: -one[1]))
    if "box" in truth:
        return f"box {truth['box']} of {truth['width']} x {truth['height']} pixels (x, y, width, height)"
    return str(truth.get("answer", ""))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def _picture(image: PILImage.Image, what: str) -> str:
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{what}" width="{image.width}" height="{image.height}" src="data:image/jpeg;base64,{data}">'
