"""The options of `python -m trainer.evaluate` that are about benchmarks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from models.program import explained
from models.urls import local_path
from trainer.benchmarks.all import BENCHMARKS, benchmarks_named
from trainer.benchmarks.command import check_all, run_all, score_given
from trainer.benchmarks.comparison import as_text, compare
from trainer.benchmarks.few_shot.examples import ExampleSelection
from trainer.benchmarks.options import DEFAULT_BATCH_SIZE, BenchmarkOptions, FidProtocol
from trainer.benchmarks.scoring import Cleaning
from trainer.errors import RendezvousError, UsageError


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser, in a group of their own."""
    group = parser.add_argument_group("published benchmarks")
    group.add_argument(
        "--benchmark",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(BENCHMARKS)}; emoji is the emoji world, all is every one",
    )
    group.add_argument("--data", type=local_path, metavar="DIR", help="where the official files are")
    group.add_argument("--split", help="of one benchmark; default: the one that the paper reports")
    group.add_argument("--check", action="store_true", help="only tell what is there, what is missing, and the cost")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N samples; the row is marked as partial")
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="samples answered together; default: "
        + ", ".join(f"{size} for {kind}s" for kind, size in DEFAULT_BATCH_SIZE.items()),
    )
    group.add_argument(
        "--predictions",
        type=local_path,
        metavar="PATH",
        help="score these; no model is needed. Drawn images: a folder of ID.png",
    )
    group.add_argument(
        "--submission", type=local_path, metavar="FILE", help="where to write what the data set's server takes"
    )
    group.add_argument("--compare", nargs=2, type=local_path, metavar="OUT", help="the difference of two runs' scores")
    group.add_argument("--overwrite", action="store_true", help="begin anew where a run was begun with other settings")
    group.add_argument("--tuned", action="store_true", help="the prompts of the fine-tuned model")
    group.add_argument(
        "--clean", choices=get_args(Cleaning), default="plain", help="what counts as a short answer; default: plain"
    )
    group.add_argument("--num-beams", type=int, metavar="N", help="default: the released code's, 5 or 3")
    group.add_argument(
        "--num-shots", type=int, default=0, metavar="N", help="training samples that stand before each as examples"
    )
    group.add_argument(
        "--examples",
        choices=get_args(ExampleSelection),
        default="similar",
        help="those whose images are most like the sample's by --clip, or any; default: similar",
    )
    group.add_argument(
        "--num-candidates", type=int, default=1, metavar="N", help="images drawn, of which --clip keeps the best"
    )
    group.add_argument(
        "--protocol", choices=get_args(FidProtocol), default="64", help="how images are resized for FID; default: 64"
    )
    group.add_argument(
        "--inception", type=local_path, metavar="FILE", help="pt_inception-2015-12-05-6726825d.pth, for FID"
    )
    group.add_argument("--clip", type=local_path, metavar="DIR", help="CLIP ViT-L/14, for VIST and for candidates")
    group.add_argument(
        "--segmenter", type=local_path, metavar="DIR", help="a model of ADE20K's 150 classes, for ade20k"
    )
    group.add_argument("--backend", metavar="NAME", help="what runs an export: ort, trt or rtx; default: ort")


def is_about_benchmarks(given: argparse.Namespace) -> bool:
    """Whether the emoji world is not what was asked for."""
    return bool(given.benchmark or given.compare or given.check or given.predictions)


def run_benchmarks(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Do what was asked. Returns the exit code: 0, 1 if --check found something missing, 2 for wrong use."""
    from trainer.evaluation.progress import show_progress

    if given.compare:
        try:
            print(as_text(compare(*given.compare)))
        except UsageError as error:
            return _told(parser, error)
        return 0
    if not given.benchmark:
        parser.error("--benchmark is missing: the names of benchmarks, or all.")
    try:
        needs_files = any(benchmark.needs_files for benchmark in benchmarks_named(given.benchmark))
    except UsageError as error:
        return _told(parser, error)
    if given.data is None and needs_files:
        parser.error("--data is missing: the folder with the official files.")
    for name in ("limit", "batch_size", "num_beams", "num_candidates", "num_steps"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; expected 1 or more.")
    if given.num_shots < 0:
        parser.error(f"--num-shots is {given.num_shots}; expected 0 or more.")
    options = BenchmarkOptions(
        names=given.benchmark,
        data=given.data or Path(),
        out=given.out,
        split=given.split,
        limit=given.limit,
        batch_size=given.batch_size,
        tuned=given.tuned,
        clean=given.clean,
        fid_protocol=given.protocol,
        num_candidates=given.num_candidates,
        num_steps=given.num_steps,
        guidance_scale=given.guidance_scale,
        num_beams=given.num_beams,
        num_shots=given.num_shots,
        example_selection=given.examples,
        seed=given.seed,
        inception=given.inception,
        clip=given.clip,
        segmenter=given.segmenter,
        backend=given.backend,
        device=given.device,
        overwrite=given.overwrite,
        submission=given.submission,
    )
    try:
        if given.check:
            return check_all(options)
        if given.predictions is not None:
            return score_given(options, given.predictions)
        if given.model_dir is None:
            parser.error("MODEL is missing: the directory of a model, or --predictions FILE.")
        return run_all(given.model_dir, options, show_progress)
    except RendezvousError as error:
        from trainer.command_line import tell_who_is_missing  # here, for the options need nothing of it

        return tell_who_is_missing(error)
    except (UsageError, OSError) as error:
        return _told(parser, error)


def _told(parser: argparse.ArgumentParser, error: Exception) -> int:
    print(f"{parser.prog}: {explained(error)}", file=sys.stderr)
    return 2
