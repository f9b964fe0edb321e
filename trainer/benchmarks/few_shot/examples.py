"""The in-context examples of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.benchmarks.sample import ImageFile, Sample

ExampleSelection = Literal["similar", "random"]
"""The training samples whose images are most like the sample's own, or any."""

SEPARATOR = "\n"
"""What ends the answer of an example; so it ends the model's own answer, too."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples for each sample, and what they show as their answers."""

    by_sample: Mapping[str, Sequence[Sample]]
    """By the sample's id, in reading order."""

    target: Callable[[Sample], str]

    def of(self, sample: Sample) -> Sequence[Sample]:
        """What stands before a sample."""
        return self.by_sample[sample.id]

    def images(self, sample: Sample) -> list[ImageFile]:
        """The images of its examples."""
        return [image for example in self.of(sample) for image in example.images]

    def answer(self, example: Sample) -> str:
        """What follows an example's prompt."""
        return f" {self.target(example)}{SEPARATOR}"
