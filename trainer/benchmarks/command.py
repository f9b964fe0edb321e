"""What `python -m trainer.evaluate --benchmark` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.atomic_files import write_atomically
from trainer.benchmarks.all import benchmarks_named
from trainer.benchmarks.benchmark import Benchmark
from trainer.benchmarks.check import absent_images, check, cost
from trainer.benchmarks.options import BenchmarkOptions
from trainer.benchmarks.predictions import Answered, given_images, ordered, read_given
from trainer.benchmarks.result import Result
from trainer.benchmarks.run import Run, result_of
from trainer.benchmarks.sample import Split
from trainer.benchmarks.scoring import Scores
from trainer.benchmarks.table import as_markdown, as_text
from trainer.errors import UsageError

if TYPE_CHECKING:
    import torch

    from trainer.benchmarks.drawn import Judges
    from trainer.benchmarks.few_shot.choice import ExampleChoice

TABLE_FILE = "results.md"
SUBMISSION_FILE = "submission.json"
MONTH = timedelta(days=31)
"""How long the first process waits for the last answers of the others, which may have hours of them left."""

Progress = Callable[[str], None]


def check_all(options: BenchmarkOptions) -> int:
    """Print what there is of each benchmark. Returns 0 if all that were named can run, else 1."""
    checks = [check(benchmark, options) for benchmark in benchmarks_named(options.names)]
    for one in checks:
        print(f"{'ready  ' if one.is_ready else 'missing'}  {one.name}")
        for line in one.lines:
            print(f"         {line}")
    return 0 if all(one.is_ready for one in checks) else 1


def score_given(options: BenchmarkOptions, predictions: Path) -> int:
    """Score predictions of any program, without a model: a file of texts, without PyTorch; or a folder of drawn images,
    named by the samples' ids. Returns the exit code.

    Raises:
        UsageError: more than one benchmark; a file is missing or damaged.
    """
    benchmarks = benchmarks_named(options.names)
    if options.num_shots:
        raise UsageError("--num-shots is about how a model is asked; predictions in a file were asked for already.")
    if len(benchmarks) != 1:
        raise UsageError(f"--predictions is one file, of one benchmark; --benchmark names {len(benchmarks)}.")
    [benchmark] = benchmarks
    split = benchmark.open(options.data, options.split or benchmark.default_split)
    run = Run(benchmark, split, (options.out or Path()) / benchmark.name, options.limit)
    scores = (
        _score_images(run, predictions, options)
        if benchmark.kind == "image"
        else _score_texts(run, predictions, options)
    )
    if scores is None:
        return 0
    facts = {"predictions": str(predictions)}
    result = result_of(run, scores, {}, [*options.deviations(benchmark), "predictions of another program"], facts)
    print(as_text([result]))
    if options.out is not None:
        run.directory.mkdir(parents=True, exist_ok=True)
        run.write(result, scores)
        write_atomically(options.out / TABLE_FILE, as_markdown([result]))
    return 0


def _score_texts(run: Run, file: Path, options: BenchmarkOptions) -> Scores | None:
    """None: only a server knows the answers."""
    found = read_given(file, run.split.samples)
    if options.submission is not None:
        _write_submission(run, found, options.submission)
    return run.score_texts(found, options.clean) if run.split.is_scored else None


def _score_images(run: Run, directory: Path, options: BenchmarkOptions) -> Scores:
    if options.out is None:
        raise UsageError("--out DIR is missing: what is computed of the real images is kept there.")
    drawn = given_images(directory, run.samples)
    absent = absent_images(run.split)
    if absent:
        raise UsageError(f"{run.benchmark.name}: {absent}")

    from trainer.benchmarks.drawn import score_drawn
    from trainer.evaluation.progress import show_progress
    from trainer.run import choose_device

    judges = _judges(options, choose_device(options.device))
    protocol = options.fid_protocol
    run.directory.mkdir(parents=True, exist_ok=True)
    statistics = run.directory / f"statistics-{protocol}.npz"
    return score_drawn(
        run.benchmark, run.split, run.samples, lambda key: drawn[key], judges, protocol, statistics, show_progress
    )


def run_all(model_dir: Path, options: BenchmarkOptions, progress: Progress) -> int:
    """Answer and score with a model. Returns the exit code: 0.

    Raises:
        UsageError: something is missing or does not fit; nothing was answered then.
    """
    if options.out is None:
        raise UsageError("--out DIR is missing: predictions are kept there, so that a run can go on.")
    benchmarks = benchmarks_named(options.names)
    if options.split is not None and len(benchmarks) > 1:
        raise UsageError(f"--split is {options.split}, and --benchmark names {len(benchmarks)}; name one.")
    splits = [benchmark.open(options.data, options.split or benchmark.default_split) for benchmark in benchmarks]
    trainings = [benchmark.open_training(options.data) if options.num_shots else None for benchmark in benchmarks]
    for benchmark, split, training in zip(benchmarks, splits, trainings, strict=True):
        for some in (split,) if training is None else (split, training):
            absent = absent_images(some)
            if absent:
                raise UsageError(f"{benchmark.name} ({some.name}): {absent}")
    if options.submission is not None and (len(benchmarks) > 1 or benchmarks[0].submission is None):
        raise UsageError("--submission is for one benchmark that has a server.")
    if options.submission is not None and options.limit is not None:
        raise UsageError("--submission needs all samples of the split; leave --limit out.")

    from trainer.benchmarks.answering import Asking
    from trainer.process.distributed import joined
    from trainer.run import choose_device

    device = choose_device(options.device)
    judges = _judges(options, device)
    for benchmark in benchmarks:
        judges.check(benchmark)
    drawing = _drawing(options, judges)
    choice = _example_choice(options, judges)

    from trainer.benchmarks.evaluated_model import open_model

    evaluated = open_model(model_dir, device, options.backend)
    runs = [
        Run(benchmark, split, options.out / benchmark.name, options.limit)
        for benchmark, split in zip(benchmarks, splits, strict=True)
    ]
    settings: list[dict[str, Any]] = []
    results = []
    with joined(device) as processes:
        if processes.is_first:
            about_model = evaluated.describe()
            for run, training in zip(runs, trainings, strict=True):
                progress("")
                shown = cost(run.benchmark, run.split, options).removeprefix("cost: ")
                print(f"{run.benchmark.name}: {shown}", file=sys.stderr)
                settings.append(_settings(run.benchmark, run.split, options, about_model))
                if choice is not None and training is not None:
                    settings[-1]["examples"] = choice.describe(training)
                run.begin(settings[-1], options.overwrite)
        processes.barrier()
        done = [run.answered() for run in runs]
        processes.barrier()  # nobody writes before all have read
        for number, (run, already, training) in enumerate(zip(runs, done, trainings, strict=True)):
            examples = None
            if choice is not None and training is not None:
                told = progress if processes.is_first else _tell_nobody
                examples = choice.examples(run.benchmark, training, run.samples, options.out, processes, told)
            run.answer(
                evaluated.model,
                Asking(run.benchmark.prompt_task(options.tuned), options.generation(run.benchmark), examples),
                done=already,
                rank=processes.rank,
                num_processes=processes.num,
                batch_size=options.size_of_batches(run.benchmark),
                drawing=drawing,
                progress=progress if processes.is_first else _tell_nobody,
            )
            processes.store.set(f"{run.benchmark.name} {processes.rank}", "done")
            if processes.is_first:
                everyone = [f"{run.benchmark.name} {rank}" for rank in range(processes.num)]
                processes.store.wait(everyone, MONTH)
                result = _score(run, settings[number], options, judges, progress)
                results += [] if result is None else [result]
    if results:
        progress("")
        print(as_text(results))
        write_atomically(options.out / TABLE_FILE, as_markdown(results))
        print(f"wrote {options.out / TABLE_FILE}")
    return 0


def _score(
    run: Run, settings: Mapping[str, Any], options: BenchmarkOptions, judges: Judges, progress: Progress
) -> Result | None:
    from trainer.benchmarks.drawn import score_drawn
    from trainer.benchmarks.page import write_page

    found = run.answered()
    run.check_complete(found)
    is_whole = len(run.samples) == len(run.split.samples)
    if options.submission is not None or (not run.split.is_scored and is_whole):
        _write_submission(run, found, options.submission or run.directory / SUBMISSION_FILE)
    if not run.split.is_scored:
        behind = "." if is_whole else ", which takes no part of the split: no file was written for it."
        print(f"{run.benchmark.name} ({run.split.name}) is scored by its makers' server alone{behind}")
        return None
    if run.benchmark.kind == "image":
        protocol = options.fid_protocol
        scores = score_drawn(
            run.benchmark,
            run.split,
            run.samples,
            run.image_file,
            judges,
            protocol,
            run.directory / f"statistics-{protocol}.npz",
            progress,
        )
    else:
        scores = run.score_texts(found, options.clean)
    result = result_of(run, scores, found, options.deviations(run.benchmark), settings)
    run.write(result, scores)
    write_page(run, result, scores, found)
    return result


def _write_submission(run: Run, found: Mapping[str, Answered], file: Path) -> None:
    if run.benchmark.submission is None:
        raise UsageError(f"{run.benchmark.name} has no server that takes predictions.")
    if len(run.samples) < len(run.split.samples):
        raise UsageError("--submission needs all samples of the split; leave --limit out.")
    run.check_complete(found)
    samples, predictions = ordered(run.samples, found)
    write_atomically(file, json.dumps(run.benchmark.submission(samples, predictions), ensure_ascii=False) + "\n")
    print(f"wrote {file}, {len(samples):,} predictions in the official form")


def _tell_nobody(_line: str) -> None:
    """The progress of a process that is not the first."""


def _example_choice(options: BenchmarkOptions, judges: Judges) -> ExampleChoice | None:
    from trainer.benchmarks.few_shot.choice import ExampleChoice

    if not options.num_shots:
        return None
    return ExampleChoice(options.num_shots, options.example_selection, options.seed, judges.clip)


def _drawing(options: BenchmarkOptions, judges: Judges) -> dict[str, Any]:
    clip = judges.clip
    if options.num_candidates > 1 and clip is None:
        raise UsageError(f"--num-candidates is {options.num_candidates}; --clip DIR chooses the best of them.")

    def best_of(text: str, images: Sequence[Any]) -> int:
        from trainer.scorers.similarity import best_candidates

        assert clip is not None
        [best], _ = best_candidates(clip.of_texts([text]), clip.of_images(images)[None])
        return int(best)

    return {"num_candidates": options.num_candidates, "best_of": best_of, "seed": options.seed}


def _judges(options: BenchmarkOptions, device: torch.device) -> Judges:
    from trainer.benchmarks.drawn import Judges
    from trainer.benchmarks.networks.clip import Clip
    from trainer.benchmarks.networks.inception import load_inception
    from trainer.benchmarks.networks.segmenter import Segmenter

    inception, digest = (None, "") if options.inception is None else load_inception(options.inception, device)
    return Judges(
        device,
        inception,
        digest,
        None if options.clip is None else Clip(options.clip, device),
        None if options.segmenter is None else Segmenter(options.segmenter, device),
    )


def _settings(
    benchmark: Benchmark, split: Split, options: BenchmarkOptions, model_facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides predictions; sizes of batches, numbers of processes and limits do not."""
    from importlib.metadata import version

    from models.generation.prompts import prompt_for
    from trainer.benchmarks.settings import digest_of
    from trainer.process.environment import PACKAGES

    task = benchmark.prompt_task(options.tuned)
    prompt = None if task is None else prompt_for(task)
    return {
        "benchmark": benchmark.name,
        "split": split.name,
        "model": dict(model_facts),
        "annotations": {file.name: digest_of([file]) for file in split.files[:2]}
        | ({"more annotations": digest_of(split.files[2:])} if split.files[2:] else {}),
        "prompt": None if prompt is None else prompt.opening + prompt.round + prompt.closing,
        "options": options.generation(benchmark),
        **(
            {"seed": options.seed, "candidates": options.num_candidates, "clip": str(options.clip)}
            if benchmark.kind == "image"
            else {}
        ),
        "versions": {name: version(name) for name in PACKAGES},
    }
