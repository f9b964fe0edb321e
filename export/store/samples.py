"""Documents that a model is checked with: real ones if there are any.

A training run writes some beside its model: `samples/samples.json` is a list of documents, a document a list of
segments in reading order, a segment `{"text": "..."}` or `{"image": "file.png"}` with the file in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.generation.documents import PlainText
from models.images.image_file import open_image

Document = list[str | Image.Image]

SAMPLES_DIR = "samples"
SAMPLES_FILE = "samples.json"
MAX_DOCUMENTS = 4


@dataclass(frozen=True)
class Samples:
    """Documents and where they come from, in words for the report."""

    documents: list[Document]
    source: str


def load_samples(model_dir: Path, images: Sequence[Path] = ()) -> Samples:
    """The given images, each as a document of its own; else the documents beside the model; else noise.

    Raises:
        ValueError: an image cannot be read, `samples.json` is not what this file describes, or its documents hold no
            image.
        FileNotFoundError: an image is missing.
    """
    if images:
        documents: list[Document] = [[open_image(image)] for image in images[:MAX_DOCUMENTS]]
        return Samples(documents, f"{len(documents)} images given on the command line")
    folder = model_dir / SAMPLES_DIR
    if (folder / SAMPLES_FILE).is_file():
        documents = _read(folder)
        return Samples(
            documents, f"the first {len(documents)} documents of {SAMPLES_DIR}/{SAMPLES_FILE} beside the model"
        )
    noise = np.random.default_rng(0)
    first, second, third = (Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3))
    return Samples([[first, "one", second], [third, "and two"]], "seeded noise: no samples beside the model")


def _read(folder: Path) -> list[Document]:
    file = folder / SAMPLES_FILE
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        documents = [[_segment(segment, folder) for segment in document] for document in listed[:MAX_DOCUMENTS]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{file} is not a list of documents, each a list of {{"text": ...}} and {{"image": ...}}: {error!r}.'
        ) from error
    if not any(isinstance(segment, Image.Image) for document in documents for segment in document):
        raise ValueError(
            f"The first documents of {file} hold no image, so the image side can't be checked. Put one with "
            f"an image among the first {MAX_DOCUMENTS}, or name images with --images."
        )
    return documents


def _segment(segment: dict[str, str], folder: Path) -> str | Image.Image:
    (kind, content), *more = segment.items()
    if more or kind not in ("text", "image"):
        raise KeyError(str(segment))
    return PlainText(content) if kind == "text" else open_image(folder / content)
