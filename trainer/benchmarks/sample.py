"""What a benchmark asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class ImageFile:
    """An image that is opened when it is asked for."""

    path: Path
    form: Literal["image", "frames", "label map"] = "image"
    """"frames": square frames of a film in a strip, or an array of them; "label map": classes, shown by colours."""

    frame: float = 0.0
    """Of "frames": which one, from 0 to below 1."""

    described_size: tuple[int, int] | None = None
    """(width, height) of the image that boxes are about; whether the camera's turn counts is told by it."""


@dataclass(frozen=True)
class DrawnBefore:
    """The image that the model itself drew for another sample, which comes first."""

    sample_id: str


@dataclass(frozen=True, eq=False)
class Rendered:
    """An image that was made, not read."""

    pixels: np.ndarray
    """uint8 [h, h, 3]; averaged down where the model reads a whole fraction of it."""


Segment = str | ImageFile | DrawnBefore | Rendered


@dataclass(frozen=True)
class Sample:
    """One thing that is asked and scored."""

    id: str
    """The data set's own, so that predictions fit the files of any other program."""

    document: tuple[Segment, ...]
    """Text and images that fill the benchmark's prompt."""

    truth: Mapping[str, Any] = field(default_factory=dict)
    """What its scorer compares with."""

    candidates: tuple[str, ...] = ()
    """Answers to rank, where nothing is to be written."""

    @property
    def group(self) -> str:
        """What samples share that are answered together: their story, or their images."""
        if "story" in self.truth:
            return str(self.truth["story"])
        return " ".join(str(image.path) for image in self.images) or self.id

    @property
    def images(self) -> list[ImageFile]:
        """The files among its segments."""
        return [segment for segment in self.document if isinstance(segment, ImageFile)]


@dataclass(frozen=True)
class Split:
    """The samples of a part of a data set."""

    name: str
    samples: Sequence[Sample]
    files: Sequence[Path]
    """What was read to know them, which a run's settings hold the digests of."""

    expected: int | None = None
    """How many samples the split officially has."""

    real_images: Sequence[ImageFile] = ()
    """Where images are drawn: the real ones to compare with, all that count."""

    are_paired: bool = True
    """Whether there is a real image for each sample, in the same order."""

    is_scored: bool = True
    """False: only its makers' server knows the answers."""

    @property
    def image_paths(self) -> list[Path]:
        """Every image file once, in order."""
        return list(dict.fromkeys(image.path for sample in self.samples for image in sample.images))
