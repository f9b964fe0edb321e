"""Which training samples stand before a sample."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer.benchmarks.sample import Sample
from trainer.errors import UsageError

QUERIES_AT_ONCE = 256


class ExamplePool:
    """Training samples by their image.

    Args:
        samples: of the training split; the first image of each counts.
        num_shots: examples for each sample.

    Raises:
        UsageError: there are too few images for so many examples, none of which may show the sample's own image.
    """

    def __init__(self, samples: Sequence[Sample], num_shots: int) -> None:
        self._by_image: dict[Path, list[Sample]] = {}
        for sample in samples:
            self._by_image.setdefault(sample.images[0].path, []).append(sample)
        self.num_shots = num_shots
        if len(self._by_image) <= num_shots:
            raise UsageError(
                f"--num-shots is {num_shots}, and the training samples show {len(self._by_image)} images; expected one "
                "more than examples, because none may show the image that is asked about."
            )

    @property
    def images(self) -> list[Path]:
        """Each image once."""
        return list(self._by_image)

    def at_random(self, samples: Sequence[Sample], seed: int) -> dict[str, tuple[Sample, ...]]:
        """Examples for each sample, by its id: other images at random, the same ones whatever is asked besides."""
        images = self.images
        chosen = {}
        for sample in samples:
            # one more than needed, so that the sample's own image can be left out
            drawn = random.Random(f"{seed} {sample.id}").sample(images, self.num_shots + 1)
            own = {image.path for image in sample.images}
            others = [image for image in drawn if image not in own][: self.num_shots]
            chosen[sample.id] = tuple(self._one_of(image, sample) for image in others)
        return chosen

    def most_similar(
        self, samples: Sequence[Sample], features: Mapping[Path, np.ndarray]
    ) -> dict[str, tuple[Sample, ...]]:
        """Examples for each sample, by its id: those whose images are most like its own, the most similar last, right
        before what is asked (retrieval-based in-context example selection; Yang et al. 2022, arXiv:2109.05014; the
        order is that of Flamingo, Alayrac et al. 2022, appendix A.2).

        Args:
            features: [features] of each image, the samples' own ones among them.
        """
        images = self.images
        places = {image: place for place, image in enumerate(images)}
        candidates = _unit_rows(np.stack([features[image] for image in images]))
        chosen = {}
        for start in range(0, len(samples), QUERIES_AT_ONCE):
            part = samples[start : start + QUERIES_AT_ONCE]
            queries = _unit_rows(np.stack([features[sample.images[0].path] for sample in part]))
            similarities = queries @ candidates.T
            for sample, row in zip(part, similarities, strict=True):
                for image in sample.images:
                    if image.path in places:
                        row[places[image.path]] = -np.inf
                best = np.argpartition(row, -self.num_shots)[-self.num_shots :]
                best = best[np.argsort(row[best], kind="stable")]
                chosen[sample.id] = tuple(self._one_of(images[place], sample) for place in best)
        return chosen

    def _one_of(self, image: Path, asked: Sample) -> Sample:
        """One of the samples about an image: another one for another question, always the same for the same."""
        about = self._by_image[image]
        digest = hashlib.blake2b(f"{asked.id} {about[0].id}".encode(), digest_size=6).digest()
        return about[int.from_bytes(digest, "big") % len(about)]


def _unit_rows(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)
