"""What there is of the benchmarks' files, what is missing, and what a run would cost, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.image_files import missing_images
from trainer.benchmarks.options import BenchmarkOptions
from trainer.benchmarks.sample import Split
from trainer.errors import UsageError

MAX_NAMED = 3


@dataclass(frozen=True)
class Check:
    """What was found of one benchmark."""

    name: str
    lines: Sequence[str]
    is_ready: bool


def check(benchmark: Benchmark, options: BenchmarkOptions) -> Check:
    """Look at a benchmark's files."""
    split_name = options.split or benchmark.default_split
    try:
        split = benchmark.open(options.data, split_name)
    except UsageError as error:
        return Check(benchmark.name, [str(error)], False)
    lines = [f"{split.name}: {len(split.samples):,} samples in {', '.join(file.name for file in split.files[:2])}"]
    if split.expected is not None and split.expected != len(split.samples):
        lines.append(f"the official split has {split.expected:,}: this is another one, or a part")
    absent = absent_images(split)
    if options.num_shots:
        try:
            training = benchmark.open_training(options.data)
        except UsageError as error:
            return Check(benchmark.name, [*lines, str(error)], False)
        lines.append(f"examples: {len(training.samples):,} training samples")
        absent = absent or absent_images(training)
    lines += [absent] if absent else []
    lines.append(cost(benchmark, split, options))
    if not split.is_scored:
        lines.append("its answers are not public: the run ends with the file that its server takes")
    return Check(benchmark.name, lines, not absent)


def absent_images(split: Split) -> str | None:
    """A sentence about images that are not there, or None."""
    real = [image.path for image in split.real_images]
    paths = list(dict.fromkeys([*split.image_paths, *real]))
    missing = missing_images(paths)
    if not missing:
        return None
    named = ", ".join(map(str, missing[:MAX_NAMED]))
    return f"{len(missing):,} of {len(paths):,} images are missing: {named}{' ...' if missing[MAX_NAMED:] else ''}"


def cost(benchmark: Benchmark, split: Split, options: BenchmarkOptions) -> str:
    """What a run does, in numbers that a person can multiply with their own machine's speed."""
    num = len(split.samples) if options.limit is None else min(options.limit, len(split.samples))
    given = options.generation(benchmark)
    match benchmark.kind:
        case "text":
            images = len({image for sample in split.samples[:num] for image in sample.images})
            beams, tokens = given.get("num_beams", 1), given["max_new_tokens"]
            shots = f" behind {num * options.num_shots:,} examples" if options.num_shots else ""
            return f"cost: {images:,} images read, {num:,} answers of up to {tokens} tokens with {beams} beams{shots}"
        case "ranking":
            candidates = sum(len(sample.candidates) for sample in split.samples[:num])
            return f"cost: {num:,} documents read, {candidates:,} answers scored"
        case "image":
            passes = num * options.num_candidates * given["num_inference_steps"] * 2
            return (
                f"cost: {num:,} images x {options.num_candidates} candidates x {given['num_inference_steps']} steps "
                f"x 2 (guidance) = {passes:,} passes of the U-Net"
            )
    raise AssertionError(benchmark.kind)
