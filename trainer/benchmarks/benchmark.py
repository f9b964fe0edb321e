"""What a benchmark is: its files, what is asked and how, how it is scored, and what the paper reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainer.benchmarks.sample import Sample, Split
from trainer.benchmarks.scoring import Prediction, TextScorer
from trainer.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from trainer.benchmarks.scoring import Scores

ImageScorer = Callable[[Sequence[Sample], "Sequence[PILImage.Image]"], "Scores"]
"""Samples and what was drawn for them, in one order, to scores."""

Kind = Literal["text", "ranking", "image"]

TRAINING_SPLIT = "train"


@dataclass(frozen=True)
class Source:
    """One form in which a split is published."""

    files: tuple[str, ...]
    """All of them are needed; relative to the data folder."""

    read: Callable[..., Split]
    """(file, ..., folder of the images, split, how many samples it officially has) to the samples."""

    images: str
    """The folder of the images, relative to the data folder."""

    expected: int | None = None
    """Samples that the split officially has."""


@dataclass(frozen=True)
class Figure:
    """What the paper reports for the model of 13 billion parameters."""

    zero_shot: float | None
    tuned: float | None
    where: str
    """Table and page of the paper."""


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark."""

    name: str
    title: str
    kind: Kind
    metric: str
    splits: Mapping[str, tuple[Source, ...]]
    """By name, the default first; each with the forms in which it is published."""

    paper: Mapping[str, Figure]
    """By split."""

    task: str | None = None
    """The prompt of `models.generation.prompts.PROMPTS` that samples fill; None: nothing stands around them."""

    tuned_task: str | None = None
    """The same for a model that was fine-tuned on the task; None: no other."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `generate`, as in the released code."""

    score: TextScorer | None = None
    """Of texts and rankings; None for drawn images."""

    score_images: ImageScorer | None = None
    """Of drawn images, if no network judges them; None: see `trainer.benchmarks.drawn`."""

    training: tuple[Source, ...] = ()
    """The forms of the training split, from which in-context examples are chosen; none: there are no examples."""

    target: Callable[[Sample], str] | None = None
    """What a training sample shows as its answer."""

    higher_is_better: bool = True
    submission: Callable[[Sequence[Sample], Sequence[Prediction]], Any] | None = None
    """Predictions in the form that the data set's own server takes."""

    deviations: Mapping[str, str] = field(default_factory=dict)
    """By split: in what our set-up always differs from the paper's."""

    def source(self, data: Path, split: str) -> Source:
        """The form that is there.

        Raises:
            UsageError: no such split, or none of its forms is there whole.
        """
        if split not in self.splits:
            raise UsageError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}.")
        return self._present(data, split, self.splits[split])

    def _present(self, data: Path, split: str, sources: Sequence[Source]) -> Source:
        for source in sources:
            if all((data / file).exists() for file in source.files):
                return source
        wanted = "; or ".join(" and ".join(source.files) for source in sources)
        raise UsageError(f"{self.name} ({split}) needs in {data}: {wanted}. See docs/evaluation.md.")

    def open(self, data: Path, split: str) -> Split:
        """The samples of a split.

        Raises:
            UsageError: files are missing or damaged.
        """
        return _read(self.source(data, split), data, split)

    def open_training(self, data: Path) -> Split:
        """The samples that in-context examples are chosen from.

        Raises:
            UsageError: there are none for this benchmark, or files are missing or damaged.
        """
        if not self.training or self.target is None:
            raise UsageError(f"{self.name} is asked without in-context examples; leave --num-shots out for it.")
        return _read(self._present(data, TRAINING_SPLIT, self.training), data, TRAINING_SPLIT)

    @property
    def default_split(self) -> str:
        """The one that the paper reports."""
        return next(iter(self.splits))

    @property
    def needs_files(self) -> bool:
        """Whether something has to be fetched for it."""
        return any(source.files for sources in self.splits.values() for source in sources)

    def prompt_task(self, tuned: bool) -> str | None:
        """The name of the prompt, if there is one."""
        return self.tuned_task if tuned and self.tuned_task is not None else self.task


def _read(source: Source, data: Path, split: str) -> Split:
    return source.read(*(data / file for file in source.files), data / source.images, split, source.expected)
