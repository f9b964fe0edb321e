"""How a run chooses its in-context examples, and what its settings say about that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.few_shot.examples import SEPARATOR, Examples, ExampleSelection
from trainer.benchmarks.few_shot.image_features import image_features
from trainer.benchmarks.few_shot.selection import ExamplePool
from trainer.benchmarks.networks.clip import Clip
from trainer.benchmarks.sample import Sample, Split
from trainer.benchmarks.settings import digest_of
from trainer.errors import UsageError
from trainer.process.distributed import Processes

FEATURES_DIR = "image_features"


class ExampleChoice:
    """The choice of examples for each sample.

    Args:
        num_shots: examples for each sample, 1 or more.
        selection: by which rule.
        seed: of "random".
        clip: of "similar".

    Raises:
        UsageError: similar images are wanted, and there is no CLIP.
    """

    def __init__(self, num_shots: int, selection: ExampleSelection, seed: int, clip: Clip | None) -> None:
        if selection == "similar" and clip is None:
            raise UsageError(
                f"--num-shots is {num_shots}; --clip DIR finds the examples with the most similar images, or "
                "--examples random takes any."
            )
        self._num_shots = num_shots
        self._selection = selection
        self._seed = seed
        self._clip = clip

    @cached_property
    def _clip_digest(self) -> str:
        assert self._clip is not None
        return self._clip.digest

    def describe(self, training: Split) -> dict[str, Any]:
        """For the settings of a run."""
        how = {"seed": self._seed} if self._selection == "random" else {"clip": self._clip_digest}
        return {
            "number": self._num_shots,
            "selection": self._selection,
            **how,
            "annotations": {file.name: digest_of([file]) for file in training.files},
            "separator": SEPARATOR,
        }

    def examples(
        self,
        benchmark: Benchmark,
        training: Split,
        samples: Sequence[Sample],
        directory: Path,
        processes: Processes,
        progress: Callable[[str], None],
    ) -> Examples:
        """Examples for each sample; all processes have to call this.

        Args:
            training: what they are chosen from.
            directory: the run's, where features of images are kept.

        Raises:
            UsageError: there are too few, or an image cannot be read.
        """
        assert benchmark.target is not None, "its training split was opened"
        pool = ExamplePool(training.samples, self._num_shots)
        if self._selection == "random":
            return Examples(pool.at_random(samples, self._seed), benchmark.target)
        assert self._clip is not None
        paths = list(dict.fromkeys([*pool.images, *(sample.images[0].path for sample in samples)]))
        features = image_features(paths, self._clip, self._clip_digest, directory / FEATURES_DIR, processes, progress)
        return Examples(pool.most_similar(samples, features), benchmark.target)
