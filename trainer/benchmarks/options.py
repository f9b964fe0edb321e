"""What a user may ask of a benchmark run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.few_shot.examples import ExampleSelection
from trainer.benchmarks.scoring import Cleaning

FidProtocol = Literal["64", "64-squeeze", "256", "clean"]

DEFAULT_BATCH_SIZE = {"text": 32, "ranking": 4, "image": 8}
"""By the kind of a benchmark."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """The options of `python -m trainer.evaluate --benchmark`."""

    names: Sequence[str]
    data: Path
    out: Path | None = None
    split: str | None = None
    """None: the one that the paper reports."""

    limit: int | None = None
    batch_size: int | None = None
    tuned: bool = False
    """Ask with the prompts of the fine-tuned model."""

    clean: Cleaning = "plain"
    fid_protocol: FidProtocol = "64"
    """How images are resized for Inception: see `trainer.benchmarks.networks.resizing`."""

    num_candidates: int = 1
    num_steps: int | None = None
    guidance_scale: float | None = None
    num_beams: int | None = None
    num_shots: int = 0
    """In-context examples before each sample."""

    example_selection: ExampleSelection = "similar"
    seed: int = 0
    inception: Path | None = None
    clip: Path | None = None
    segmenter: Path | None = None
    backend: str | None = None
    device: str = "auto"
    overwrite: bool = False
    submission: Path | None = None

    def generation(self, benchmark: Benchmark) -> dict[str, Any]:
        """Options of `generate`: the released code's, and what the user gave in their place."""
        given: dict[str, Any] = {}
        if benchmark.kind == "image":
            given = {"num_inference_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        elif benchmark.kind == "text":
            given = {"num_beams": self.num_beams}
        return {**benchmark.options, **{name: value for name, value in given.items() if value is not None}}

    def deviations(self, benchmark: Benchmark) -> list[str]:
        """In what the user's choice differs from the paper's set-up."""
        found = []
        for name, value in self.generation(benchmark).items():
            if benchmark.options.get(name) != value:
                found.append(f"{name} {value}, not {benchmark.options.get(name)}")
        if self.num_shots:
            how = "with the most similar images" if self.example_selection == "similar" else "chosen at random"
            found.append(f"{self.num_shots}-shot, examples {how}")
        if self.clean == "release" and benchmark.kind == "text":
            found.append("answers cleaned by the released code's rules")
        if benchmark.kind == "image":
            if benchmark.name == "coco_30k" and self.num_candidates != NUM_CANDIDATES:
                found.append(f"{self.num_candidates} candidate image, not the best of {NUM_CANDIDATES}")
            if benchmark.metric == "FID" and self.fid_protocol != "64":
                found.append(f"images resized by the protocol {self.fid_protocol}")
        return found

    def size_of_batches(self, benchmark: Benchmark) -> int:
        """Samples answered together."""
        return self.batch_size or DEFAULT_BATCH_SIZE[benchmark.kind]


NUM_CANDIDATES = 8
"""Images from which the paper takes the best for COCO (Table 3)."""
