"""The exported model against the PyTorch model: continuing documents in text, and drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from export.runtime import Session
from export.store.manifest import GenerationResult
from export.store.samples import Document
from export.validate.parity import ParityError
from models import MMInterleaved
from models.generation.documents import Segment

NUM_TOKENS = 16
NUM_STEPS = 4
GUIDANCE_SCALE = 3.5
LEAST_PSNR_DB = 30.0
"""Of an image that counts as the same."""

EQUAL_DB = 100.0
"""Stands for images without any difference, whose ratio is infinite."""


def check_generation(model: MMInterleaved, session: Session, documents: Sequence[Document]) -> GenerationResult:
    """Let both generate text, and an image, in the place of each document's last segment.

    Raises:
        ParityError: another token, or an image below `LEAST_PSNR_DB`.
    """
    texts: list[str] = []
    worst = EQUAL_DB
    for number, document in enumerate(documents):
        prompt = document[:-1] or document
        writing: dict[str, Any] = {"mode": "text", "max_new_tokens": NUM_TOKENS}
        drawing = _drawing(number)
        for options in (writing, drawing):
            expected, found = model.generate(prompt, **options), session.generate(prompt, **options)
            if (difference := compare(expected, found)) is not None:
                raise ParityError(f"generation: in document {number} {difference}")
            worst = min(worst, *psnrs(expected, found), EQUAL_DB)
            if options is writing:
                texts.append(expected.text)
    return GenerationResult(texts, len(documents), worst)


def check_images(
    model: MMInterleaved,
    session: Session,
    documents: Sequence[Document],
    difference_of: Callable[[Sequence[Segment], Sequence[Segment]], str | None] | None = None,
) -> GenerationResult:
    """The same without text, for half precision, where a close choice between two tokens may differ.

    Args:
        model: what was exported.
        session: its files.
        documents: to continue.
        difference_of: describes how the files' images differ from PyTorch's, or None; `compare` if not given.

    Raises:
        ParityError: images that differ; by `compare`, one below `LEAST_PSNR_DB`.
    """
    difference_of = difference_of or compare
    worst = EQUAL_DB
    for number, document in enumerate(documents):
        drawing = _drawing(number)
        prompt = document[:-1] or document
        expected, found = model.generate(prompt, **drawing), session.generate(prompt, **drawing)
        if (difference := difference_of(expected, found)) is not None:
            raise ParityError(f"generation: in document {number} {difference}")
        worst = min([worst, *psnrs(expected, found)])
    return GenerationResult([], len(documents), worst)


def compare(
    expected: Sequence[Segment], found: Sequence[Segment], *, least_psnr_db: float = LEAST_PSNR_DB
) -> str | None:
    """How a document differs from what PyTorch wrote: other text, or an image below `least_psnr_db`. None: equal."""
    if [_words(segment) for segment in expected] != [_words(segment) for segment in found]:
        return f"PyTorch writes {list(map(_words, expected))}, and the exported model {list(map(_words, found))}."
    for number, psnr_db in enumerate(psnrs(expected, found)):
        if psnr_db < least_psnr_db:
            return (
                f"image {number} has a PSNR of {psnr_db:.1f} dB against the one that PyTorch draws; "
                f"{least_psnr_db:.0f} are expected."
            )
    return None


def psnrs(expected: Sequence[Segment], found: Sequence[Segment]) -> list[float]:
    """Peak signal-to-noise ratio in dB of each image, at most `EQUAL_DB`."""
    ratios = []
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, Image.Image) and isinstance(other, Image.Image):
            error = float(np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2))
            ratios.append(min(EQUAL_DB, 10 * math.log10(255**2 / max(error, 1e-12))))
    return ratios


def _drawing(number: int) -> dict[str, Any]:
    """Options to draw in the place of a document's last segment."""
    return {
        "mode": "image",
        "num_inference_steps": NUM_STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "seed": number,
    }


def _words(segment: Segment) -> str:
    return segment if isinstance(segment, str) else f"<image of {segment.width} x {segment.height}>"
