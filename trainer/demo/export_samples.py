"""Held-out documents that the export checks a model with."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image as PILImage

from models import MMInterleaved
from models.atomic_files import write_atomically
from trainer.data.document import Text
from trainer.evaluation.held_out import held_out
from trainer.evaluation.settings import Settings

SAMPLE_TASKS = ("caption", "read", "story", "label_map")
"""A held-out document of each goes into `model/samples`, for the export to check with."""


def write_samples(model: MMInterleaved, settings: Settings, folder: Path) -> None:
    """Held-out documents beside the model, in the form that `python -m export.trt` reads."""
    folder.mkdir(exist_ok=True)
    listed = []
    for task in SAMPLE_TASKS:
        [document] = held_out(model, settings, task, 1)
        segments: list[dict[str, str]] = []
        for segment in document.segments:
            if isinstance(segment, Text):
                segments.append({"text": segment.text})
            else:
                file = folder / f"{task}_{len(segments)}.png"
                PILImage.fromarray(segment.pixels).save(file)
                segments.append({"image": file.name})
        listed.append(segments)
    write_atomically(folder / "samples.json", json.dumps(listed, indent=1) + "\n")
