"""Samples as a split, once they are known to be some, and each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.benchmarks.readers.json_files import without_doubles
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.errors import UsageError


def checked_split(
    name: str,
    samples: Sequence[Sample],
    files: Sequence[Path],
    expected: int | None,
    *,
    thing: str,
    real_images: Sequence[ImageFile] = (),
    are_paired: bool = True,
    is_scored: bool = True,
) -> Split:
    """The split; the other arguments are its fields.

    Args:
        thing: what a sample is, for the message.

    Raises:
        UsageError: there is no sample, or an id stands twice.
    """
    if not samples:
        raise UsageError(f"{files[0]} has no {thing}.")
    without_doubles(files[0], (sample.id for sample in samples))
    return Split(name, samples, files, expected, real_images, are_paired, is_scored)
