"""A benchmark run: what is left is answered, batch by batch, and scored from the files."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from models.atomic_files import write_atomically
from models.json_files import write_json
from trainer.benchmarks.batches import batches_of, groups_of, share_of
from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.predictions import PATTERN, Answered, append, file_stem, ordered, read_all
from trainer.benchmarks.result import RESULT_FILE, SCORES_FILE, Result
from trainer.benchmarks.sample import Sample, Split
from trainer.benchmarks.scoring import Cleaning, Scores
from trainer.benchmarks.settings import SETTINGS_FILE, begin_or_go_on
from trainer.errors import UsageError
from trainer.logging.time_left import time_left

if TYPE_CHECKING:
    from trainer.benchmarks.answering import Asking, Generator

IMAGES_DIR = "images"
PAGE_FILE = "page.html"

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One benchmark's run in its folder.

    Args:
        benchmark: which.
        split: its samples.
        directory: the benchmark's folder below --out.
        limit: answer and score so many samples at most, those that come first in the split; None: all.
    """

    benchmark: Benchmark
    split: Split
    directory: Path
    limit: int | None = None

    @property
    def samples(self) -> Sequence[Sample]:
        """Those that are asked: with a limit, the first ones, with all others of their groups before them."""
        return self.split.samples if self.limit is None else self.split.samples[: self.limit]

    def begin(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder, or find it as this run left it; by one process alone.

        Raises:
            UsageError: it holds a run with other settings.
        """
        if overwrite and self.directory.is_dir():
            for name in (IMAGES_DIR, SETTINGS_FILE, RESULT_FILE, SCORES_FILE, PAGE_FILE):
                path = self.directory / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in self.directory.glob(PATTERN):
                path.unlink()
        self.directory.mkdir(parents=True, exist_ok=True)
        begin_or_go_on(self.directory, settings, (PATTERN, IMAGES_DIR))

    def answered(self) -> dict[str, Answered]:
        """What was answered until now, by id."""
        found = read_all(self.directory, {sample.id for sample in self.split.samples})
        if self.benchmark.kind == "image":  # an image that was lost is drawn again
            found = {key: one for key, one in found.items() if self.image_file(key).is_file()}
        return found

    def image_file(self, sample_id: str) -> Path:
        """Where the image drawn for a sample is."""
        return self.directory / IMAGES_DIR / f"{file_stem(sample_id)}.png"

    def answer(
        self,
        model: Generator,
        asking: Asking,
        *,
        done: Collection[str],
        rank: int,
        num_processes: int,
        batch_size: int,
        drawing: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """Answer what is left, this process's share of it; every batch is on the disk before the next is begun.

        Args:
            done: ids that were answered before any process of this run began.
            rank: of this process, from 0.
            num_processes: how many there are now; another number may have begun the run.
            batch_size: samples answered together at most.
            drawing: further arguments of `drawings`.
            progress: gets a line after each batch.
        """
        left = [sample for sample in self.samples if sample.id not in done]
        groups = share_of(groups_of(left), rank, num_processes)
        batches = batches_of(groups, batch_size)
        file = self.directory / f"predictions-{rank}.jsonl"
        in_all = sum(map(len, groups))
        begun, number = time.monotonic(), 0
        for answered in self._answers(model, asking, batches, drawing):
            append(file, answered)
            number += len(answered)
            left_s = int((time.monotonic() - begun) / number * (in_all - number))
            progress(f"{self.benchmark.name} {number:,}/{in_all:,} samples  {time_left(left_s)}")

    def _answers(
        self, model: Generator, asking: Asking, batches: Iterator[list[Sample]], drawing: Mapping[str, Any]
    ) -> Iterator[list[Answered]]:
        # here, because predictions are scored without PyTorch
        from trainer.benchmarks.answering import answers_in_words, drawings, rankings

        match self.benchmark.kind:
            case "text":
                yield from answers_in_words(model, batches, asking)
            case "ranking":
                yield from rankings(model, batches, asking)
            case "image":
                (self.directory / IMAGES_DIR).mkdir(exist_ok=True)
                for drawn in drawings(model, batches, asking, drawn_before=self._drawn_before, **drawing):
                    for one in drawn:
                        write_atomically(self.image_file(one.id), _png(one.image))
                    yield [
                        Answered(one.id, f"{IMAGES_DIR}/{self.image_file(one.id).name}", one.seconds) for one in drawn
                    ]

    def _drawn_before(self, sample_id: str) -> PILImage.Image:
        with PILImage.open(self.image_file(sample_id)) as image:
            return image.convert("RGB")

    def check_complete(self, found: Mapping[str, Answered]) -> None:
        """Raise UsageError unless every sample that is asked has a prediction."""
        missing = [sample.id for sample in self.samples if sample.id not in found]
        if missing:
            raise UsageError(
                f"{self.benchmark.name}: {len(missing):,} of {len(self.samples):,} samples have no prediction, the "
                f"first {missing[0]}. A part scores otherwise than all: give all, or score the first ones with --limit."
            )

    def score_texts(self, found: Mapping[str, Answered], cleaning: Cleaning) -> Scores:
        """The score of texts or rankings.

        Raises:
            UsageError: a prediction is missing, or of another kind than the benchmark's.
        """
        self.check_complete(found)
        if self.benchmark.score is None:
            raise UsageError(f"{self.benchmark.name} scores images, not texts.")
        samples, predictions = ordered(self.samples, found)
        try:
            return self.benchmark.score(samples, predictions, cleaning)
        except ValueError as error:
            raise UsageError(f"{self.benchmark.name}: {error}") from error

    def write(self, result: Result, scores: Scores) -> None:
        """Write the result, and the score of every sample beside it."""
        lines = (
            json.dumps({"id": key, "score": value}, ensure_ascii=False) + "\n"
            for key, value in scores.by_sample.items()
        )
        write_atomically(self.directory / SCORES_FILE, "".join(lines))
        write_json(self.directory / RESULT_FILE, result.to_dict())


def result_of(
    run: Run,
    scores: Scores,
    found: Mapping[str, Answered],
    deviations: Sequence[str],
    settings: Mapping[str, Any],
) -> Result:
    """A row of the table."""
    benchmark, split = run.benchmark, run.split
    figure = benchmark.paper.get(split.name)
    own = []
    if len(run.samples) < len(split.samples):
        own.append(f"{len(run.samples):,} of {len(split.samples):,} samples")
    if split.expected is not None and len(split.samples) != split.expected:
        own.append(f"this split has {len(split.samples):,} samples, the official one {split.expected:,}")
    if split.name in benchmark.deviations:
        own.append(benchmark.deviations[split.name])
    if benchmark.paper and split.name not in benchmark.paper:
        own.append(f"the paper reports {', '.join(benchmark.paper)}")
    return Result(
        benchmark=benchmark.name,
        title=benchmark.title,
        split=split.name,
        metric=benchmark.metric,
        value=scores.value,
        standard_error=scores.standard_error,
        n=len(run.samples),
        n_split=len(split.samples),
        paper_zero_shot=None if figure is None else figure.zero_shot,
        paper_tuned=None if figure is None else figure.tuned,
        paper_where="" if figure is None else figure.where,
        higher_is_better=benchmark.higher_is_better,
        parts=dict(scores.parts),
        deviations=[*own, *deviations],
        notes=list(scores.notes),
        seconds=round(sum(found[sample.id].seconds for sample in run.samples if sample.id in found), 1),
        settings=dict(settings),
    )


def _png(image: PILImage.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
