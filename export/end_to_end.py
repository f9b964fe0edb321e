"""The exported model against the PyTorch model at their job: continuing documents in text, and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from export.ort_model import OrtModel
from export.parity import ParityError
from export.samples import Document
from models import MMInterleaved

NUM_TOKENS = 16
NUM_STEPS = 4
GUIDANCE_SCALE = 3.5
MAX_LEVELS = 1
"""Pictures have 256 levels; rounding may fall on either side."""


@dataclass(frozen=True)
class GenerationResult:
    """What agreed."""

    texts: list[str]
    """Greedy continuations, equal in both."""

    num_pictures: int
    largest_level_difference: int
    """Of 255, over all pixels of all pictures."""


def check_generation(model: MMInterleaved, exported: OrtModel, documents: Sequence[Document]) -> GenerationResult:
    """Let both write, and draw, what might stand in the place of each document's last segment.

    Raises:
        ParityError: another token, or a pixel that differs by more than `MAX_LEVELS`.
    """
    texts: list[str] = []
    largest = 0
    for number, document in enumerate(documents):
        prompt = document[:-1] or document
        writing: dict[str, Any] = {"mode": "text", "max_new_tokens": NUM_TOKENS}
        expected, found = model.generate(prompt, **writing), exported.generate(prompt, **writing)
        if expected != found:
            raise ParityError(f"generation: in document {number} PyTorch writes {expected}, onnxruntime {found}.")
        texts.append("".join(segment for segment in expected if isinstance(segment, str)))

        drawing: dict[str, Any] = {
            "mode": "image",
            "num_inference_steps": NUM_STEPS,
            "guidance_scale": GUIDANCE_SCALE,
            "seed": number,
        }
        difference = _level_difference(model.generate(prompt, **drawing), exported.generate(prompt, **drawing))
        if difference > MAX_LEVELS:
            raise ParityError(
                f"generation: the picture in document {number} differs by {difference} levels of 255 between "
                f"PyTorch and onnxruntime; {MAX_LEVELS} is allowed."
            )
        largest = max(largest, difference)
    return GenerationResult(texts, len(documents), largest)


def _level_difference(one: list[str | Image.Image], other: list[str | Image.Image]) -> int:
    """Between two drawings of one picture each."""
    (first,), (second,) = one, other
    assert isinstance(first, Image.Image)
    assert isinstance(second, Image.Image)
    return int(np.abs(np.asarray(first, dtype=np.int16) - np.asarray(second, dtype=np.int16)).max())
