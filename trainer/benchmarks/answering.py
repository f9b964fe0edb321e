"""A model's answers to a batch of samples."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image as PILImage

from models.config import MMInterleavedConfig
from models.generation.documents import PlainText, PromptSegment
from models.generation.prompts import prompt_for
from trainer.benchmarks.few_shot.examples import SEPARATOR, Examples
from trainer.benchmarks.image_files import open_image
from trainer.benchmarks.predictions import Answered
from trainer.benchmarks.sample import DrawnBefore, ImageFile, Rendered, Sample
from trainer.errors import UsageError
from trainer.evaluation.answers import first_image, shrunk_image

NUM_READING_THREADS = 4
BATCHES_AHEAD = 2

OpenImages = Mapping[ImageFile, PILImage.Image]


class Generator(Protocol):
    """An `MMInterleaved`, or an exported model."""

    @property
    def config(self) -> MMInterleavedConfig: ...

    def generate(self, documents: Any, *, task: str | None = ..., **options: Any) -> Any: ...
    def score(self, document: Any, candidates: Sequence[str], *, task: str | None = ..., **options: Any) -> Any: ...


@dataclass(frozen=True)
class Asking:
    """How samples are put to the model."""

    task: str | None
    """The prompt; None: the document as it is."""

    options: Mapping[str, Any]
    """Of `generate`."""

    examples: Examples | None = None
    """What stands before each sample."""

    def images(self, sample: Sample) -> list[ImageFile]:
        """All that has to be read to ask for this sample."""
        return [*([] if self.examples is None else self.examples.images(sample)), *sample.images]


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image that was drawn for a sample, the best of its candidates."""

    id: str
    image: PILImage.Image
    seconds: float


def answers_in_words(model: Generator, batches: Iterator[list[Sample]], asking: Asking) -> Iterator[list[Answered]]:
    """Texts, batch by batch. An image is read once, and encoded once for all samples of a batch."""
    for samples, images in with_images(batches, asking):
        begun = time.monotonic()
        documents = [_document(sample, asking, images, {}, model.config.image_size[0]) for sample in samples]
        stop = () if asking.examples is None else SEPARATOR
        written = model.generate(documents, **{"mode": "text", "stop": stop, **asking.options})
        seconds = (time.monotonic() - begun) / len(samples)
        yield [
            Answered(sample.id, one.text, seconds, one.finish_reason)
            for sample, one in zip(samples, written, strict=True)
        ]


def rankings(model: Generator, batches: Iterator[list[Sample]], asking: Asking) -> Iterator[list[Answered]]:
    """A log-probability for each candidate, batch by batch. A document is read once for all its candidates."""
    for samples, images in with_images(batches, asking):
        answered = []
        for sample in samples:
            begun = time.monotonic()
            # a candidate is another word behind the prompt
            candidates = [f" {candidate}" for candidate in sample.candidates]
            scores = model.score(
                _document(sample, asking, images, {}, model.config.image_size[0]), candidates, rank_by="sum"
            )
            values = [one.log_probability for one in scores]
            answered.append(Answered(sample.id, values, time.monotonic() - begun))
        yield answered


def drawings(
    model: Generator,
    batches: Iterator[list[Sample]],
    asking: Asking,
    *,
    drawn_before: Callable[[str], PILImage.Image],
    num_candidates: int = 1,
    best_of: Callable[[str, Sequence[PILImage.Image]], int] | None = None,
    seed: int = 0,
) -> Iterator[list[Drawn]]:
    """Images, batch by batch. The noise of an image comes from its sample's id, so that batches, order and processes do
    not matter.

    Args:
        drawn_before: the image that was drawn for an id.
        num_candidates: images drawn for each sample, of which one is kept.
        best_of: (text, candidates) to the index of the one to keep; needed with more than one.
        seed: another one gives other noise to all.
    """
    for samples, images in with_images(batches, asking):
        begun = time.monotonic()
        earlier = {
            segment.sample_id: drawn_before(segment.sample_id)
            for sample in samples
            for segment in sample.document
            if isinstance(segment, DrawnBefore)
        }
        documents = [
            _document(sample, asking, images, earlier, model.config.image_size[0])
            for sample in samples
            for _ in range(num_candidates)
        ]
        seeds = [seed_of(sample.id, seed, number) for sample in samples for number in range(num_candidates)]
        results = model.generate(documents, **{"mode": "image", **asking.options, "max_new_images": 1, "seed": seeds})
        drawn = [first_image(result, model.config.drawn_image_size) for result in results]
        seconds = (time.monotonic() - begun) / len(samples)
        kept = []
        for place, sample in enumerate(samples):
            candidates = drawn[place * num_candidates : (place + 1) * num_candidates]
            texts = [segment for segment in sample.document if isinstance(segment, str)]
            best = 0 if best_of is None or num_candidates == 1 else best_of(texts[-1], candidates)
            kept.append(Drawn(sample.id, candidates[best], seconds))
        yield kept


def seed_of(sample_id: str, seed: int, candidate: int) -> int:
    """The seed of an image's noise."""
    digest = hashlib.blake2b(f"{seed} {candidate} {sample_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def with_images(batches: Iterator[list[Sample]], asking: Asking) -> Iterator[tuple[list[Sample], OpenImages]]:
    """Batches with their images, which are read by threads while earlier batches are answered.

    Raises:
        UsageError: an image cannot be read; the sample is named.
    """
    with ThreadPoolExecutor(NUM_READING_THREADS) as pool:
        waiting: list[tuple[list[Sample], dict[ImageFile, Future[PILImage.Image]]]] = []
        for batch in batches:
            wanted = dict.fromkeys(image for sample in batch for image in asking.images(sample))
            waiting.append((batch, {image: pool.submit(open_image, image) for image in wanted}))
            if len(waiting) > BATCHES_AHEAD:
                yield _opened(*waiting.pop(0), asking)
        while waiting:
            yield _opened(*waiting.pop(0), asking)


def _opened(
    batch: list[Sample], opening: Mapping[ImageFile, Future[PILImage.Image]], asking: Asking
) -> tuple[list[Sample], OpenImages]:
    images = {}
    for sample in batch:
        for image in asking.images(sample):
            try:
                images[image] = opening[image].result()
            except UsageError as error:
                raise UsageError(f"Sample {sample.id}: {error}") from error
    return batch, images


def _document(
    sample: Sample, asking: Asking, images: OpenImages, earlier: Mapping[str, PILImage.Image], image_side: int
) -> list[PromptSegment]:
    """The sample's prompt, with those of its examples and their answers before it."""
    parts: list[PromptSegment] = []
    if asking.examples is not None:
        for example in asking.examples.of(sample):
            parts += [*_prompt(example, asking, images, {}, image_side), asking.examples.answer(example)]
    parts += _prompt(sample, asking, images, earlier, image_side)
    document: list[PromptSegment] = []
    for part in parts:  # texts that meet are tokenized as one
        if isinstance(part, str) and document and isinstance(document[-1], str):
            document[-1] = PlainText(document[-1] + part)
        else:
            document.append(part)
    return document


def _prompt(
    sample: Sample, asking: Asking, images: OpenImages, earlier: Mapping[str, PILImage.Image], image_side: int
) -> list[PromptSegment]:
    segments: list[PromptSegment] = []
    for segment in sample.document:
        match segment:
            case ImageFile():
                segments.append(images[segment])
            case DrawnBefore(sample_id):
                segments.append(earlier[sample_id])
            case Rendered(pixels):
                segments.append(
                    shrunk_image(pixels, image_side) if len(pixels) % image_side == 0 else PILImage.fromarray(pixels)
                )
            case _:
                segments.append(PlainText(segment))
    return segments if asking.task is None else prompt_for(asking.task).fill(segments)
