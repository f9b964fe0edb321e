"""Which samples are answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from trainer.benchmarks.sample import DrawnBefore, Sample

Group = tuple[Sample, ...]
"""Samples that belong to one process: questions on one image, which is read and encoded once; or the images of a story,
each of which is drawn after the one before."""


def groups_of(samples: Sequence[Sample]) -> list[Group]:
    """All samples in groups, those with short prompts first, so that the prompts of a batch are about as long."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return sorted(map(tuple, groups.values()), key=lambda group: max(map(_length, group)))


def batches_of(groups: Sequence[Group], batch_size: int) -> Iterator[list[Sample]]:
    """Batches of at most `batch_size` samples. What a sample needs to be drawn before it is in an earlier batch."""
    together: list[Group] = []
    for group in groups:
        if together and sum(map(_width, together)) + _width(group) > batch_size:
            yield from _in_rounds(together, batch_size)
            together = []
        together.append(group)
    yield from _in_rounds(together, batch_size)


def share_of(groups: Sequence[Group], rank: int, num: int) -> list[Group]:
    """What one of several processes answers: every num-th group, so that none has all the long ones."""
    return list(groups[rank::num])


def _in_rounds(groups: Sequence[Group], batch_size: int) -> Iterator[list[Sample]]:
    if any(map(_is_chain, groups)):
        for row in zip_longest(*groups):
            yield [sample for sample in row if sample is not None]
        return
    samples = [sample for group in groups for sample in group]
    for start in range(0, len(samples), batch_size):
        yield samples[start : start + batch_size]


def _is_chain(group: Group) -> bool:
    return any(isinstance(segment, DrawnBefore) for sample in group for segment in sample.document)


def _width(group: Group) -> int:
    """Rows of a batch that it takes."""
    return 1 if _is_chain(group) else len(group)


def _length(sample: Sample) -> int:
    """Roughly how much there is to read: the letters of its texts; all images have one length."""
    return sum(len(segment) if isinstance(segment, str) else 100 for segment in sample.document)
