"""Scores of drawn images: their distance from real ones, their likeness to them, or how they keep to a label map."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from models.atomic_files import write_atomically
from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.image_files import open_image
from trainer.benchmarks.networks.clip import Clip
from trainer.benchmarks.networks.inception import DIGEST_START, NUM_FEATURES, Inception
from trainer.benchmarks.networks.resizing import to_inception
from trainer.benchmarks.networks.segmenter import Segmenter
from trainer.benchmarks.options import FidProtocol
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.benchmarks.scoring import Scores
from trainer.errors import UsageError
from trainer.scorers.frechet import RunningStatistics, Statistics, frechet_distance
from trainer.scorers.mean_iou import ConfusionCounts
from trainer.scorers.similarity import cosines

BATCH_SIZE = 16
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that the user has given."""

    device: torch.device
    inception: Inception | None = None
    inception_digest: str = ""
    clip: Clip | None = None
    segmenter: Segmenter | None = None

    def check(self, benchmark: Benchmark) -> None:
        """Before any image is drawn.

        Raises:
            UsageError: what the benchmark is judged with was not given.
        """
        if benchmark.kind != "image" or benchmark.score_images is not None:
            return
        needed = {"FID": ("--inception FILE", self.inception), "mIoU": ("--segmenter DIR", self.segmenter)}
        option, judge = needed.get(benchmark.metric, ("--clip DIR", self.clip))
        if judge is None:
            raise UsageError(f"{benchmark.name} is scored with {option}, which was not given. See docs/evaluation.md.")


def score_drawn(
    benchmark: Benchmark,
    split: Split,
    samples: Sequence[Sample],
    drawn: Callable[[str], Path],
    judges: Judges,
    protocol: FidProtocol,
    statistics_file: Path,
    progress: Progress,
) -> Scores:
    """The score of drawn images.

    Args:
        samples: those that were drawn, all of the split or a part of it.
        drawn: id to the file of its image.
        protocol: how images are made smaller for Inception.
        statistics_file: where those of the real images are kept; used again for the same images.
        progress: gets a line now and then.

    Raises:
        UsageError: a network or an image is missing.
    """
    judges.check(benchmark)
    paths = [ImageFile(drawn(sample.id)) for sample in samples]
    if benchmark.score_images is not None:
        return benchmark.score_images(samples, [open_image(path) for path in paths])
    if benchmark.metric == "mIoU":
        assert judges.segmenter is not None
        return score_label_maps(split, samples, paths, judges.segmenter, progress)
    chosen = {sample.id for sample in samples}
    real = (
        [image for sample, image in zip(split.samples, split.real_images, strict=True) if sample.id in chosen]
        if split.are_paired
        else list(split.real_images)
    )
    parts: dict[str, float] = {}
    notes: list[str] = []
    distance: float | None = None
    if judges.inception is not None:
        distance, notes = _distance(paths, real, judges, protocol, statistics_file, progress)
    if benchmark.metric == "FID":
        assert distance is not None
        return Scores(distance, None, {}, parts, notes)
    assert judges.clip is not None
    if distance is not None:
        parts["FID"] = distance
    values = np.concatenate(
        [
            cosines(judges.clip.of_images(list(ours)), judges.clip.of_images(list(theirs)))
            for ours, theirs in zip(_opened(paths), _opened(real), strict=True)
        ]
    )
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    by_sample = dict(zip((sample.id for sample in samples), values.tolist(), strict=True))
    return Scores(float(values.mean()), error, by_sample, parts, notes)


def score_label_maps(
    split: Split,
    samples: Sequence[Sample],
    drawn: Sequence[ImageFile],
    segmenter: Segmenter,
    progress: Progress,
) -> Scores:
    """Mean IoU over 150 classes of what the segmenter finds in drawn images, and in the real ones: without the latter
    the former says nothing."""
    real_of = dict(zip((sample.id for sample in split.samples), split.real_images, strict=True))
    counts, real_counts = ConfusionCounts(), ConfusionCounts()
    by_sample = {}
    for number, (sample, image) in enumerate(zip(samples, drawn, strict=True)):
        label = label_map(Path(sample.truth["label"]))
        own = ConfusionCounts()
        found = segmenter.classes(open_image(image), *label.shape)
        for some in (counts, own):
            some.add(label, found)
        by_sample[sample.id] = own.result().pixel_accuracy
        real_counts.add(label, segmenter.classes(open_image(real_of[sample.id]), *label.shape))
        progress(f"segmented {number + 1}/{len(samples)} images")
    result, real = counts.result(), real_counts.result()
    parts = {
        "pixel accuracy": result.pixel_accuracy,
        "mIoU over the classes that occur": result.over_seen_classes,
        "mIoU of the real images": real.over_all_classes,
        "pixel accuracy of the real images": real.pixel_accuracy,
    }
    notes = [f"segmented by {segmenter.name}", "scores of single images are their pixel accuracy"]
    return Scores(result.over_all_classes, None, by_sample, parts, notes)


def label_map(path: Path) -> np.ndarray:
    """The numbers of classes in a PNG of one channel: integers [height, width].

    Raises:
        UsageError: it cannot be read, or has more channels.
    """
    try:
        with PILImage.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P"):
                raise UsageError(
                    f"{path} is an image of mode {image.mode}; expected numbers of classes in one channel."
                )
            return np.asarray(image)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _distance(
    drawn: Sequence[ImageFile],
    real: Sequence[ImageFile],
    judges: Judges,
    protocol: FidProtocol,
    statistics_file: Path,
    progress: Progress,
) -> tuple[float, list[str]]:
    theirs = _stored(statistics_file, real, protocol, judges)
    if theirs is None:
        theirs = _statistics(real, judges, protocol, "real", progress)
        _store(statistics_file, theirs, real, protocol, judges)
    ours = _statistics(drawn, judges, protocol, "drawn", progress)
    progress("the distance, which takes up to a minute")
    notes = [f"FID with images resized by the protocol {protocol}, {ours.count:,} drawn and {theirs.count:,} real"]
    if min(ours.count, theirs.count) <= NUM_FEATURES:
        notes.append(f"fewer than {NUM_FEATURES + 1:,} images: the covariance is singular, and the distance too large")
    if not judges.inception_digest.startswith(DIGEST_START):
        notes.append(f"Inception's weights are others than the published ones: SHA-256 {judges.inception_digest[:12]}")
    return frechet_distance(ours, theirs), notes


@torch.no_grad()
def _statistics(
    images: Sequence[ImageFile], judges: Judges, protocol: FidProtocol, what: str, progress: Progress
) -> Statistics:
    assert judges.inception is not None
    running = RunningStatistics(NUM_FEATURES)
    done = 0
    for part in _opened(images):
        batch = torch.stack([to_inception(image, protocol) for image in part])
        running.add(judges.inception(batch.to(judges.device)).cpu().numpy())
        done += len(batch)
        progress(f"Inception {done}/{len(images)} {what} images")
    try:
        return running.result()
    except ValueError as error:
        raise UsageError(f"The distance of {what} images: {error}") from error


def _opened(images: Sequence[ImageFile]) -> Iterable[list[PILImage.Image]]:
    for start in range(0, len(images), BATCH_SIZE):
        yield [open_image(image) for image in images[start : start + BATCH_SIZE]]


def _facts(images: Sequence[ImageFile], protocol: FidProtocol, judges: Judges) -> str:
    names = " ".join(f"{image.path.name}@{image.frame}" for image in images)
    return f"{protocol} {judges.inception_digest} {len(images)} {names}"


def _stored(file: Path, images: Sequence[ImageFile], protocol: FidProtocol, judges: Judges) -> Statistics | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            if str(content["facts"]) != _facts(images, protocol, judges):
                return None
            return Statistics(content["mean"], content["covariance"], int(content["count"]))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageError(f"{file} is damaged ({error}); remove it, and it is made again.") from error


def _store(file: Path, found: Statistics, images: Sequence[ImageFile], protocol: FidProtocol, judges: Judges) -> None:
    content = io.BytesIO()
    facts = _facts(images, protocol, judges)
    np.savez(content, mean=found.mean, covariance=found.covariance, count=found.count, facts=facts)
    write_atomically(file, content.getvalue())
