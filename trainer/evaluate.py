"""`python -m trainer.evaluate MODEL`: how well a model reads and draws; docs/evaluation.md has the whole.

With `--benchmark`, published benchmarks: their official files below --data are asked, answered and scored as their own
programs do, beside the paper's figures. A killed run goes on with the same command.

Without it, held-out documents of the emoji world, with chance beside them: those of its validation split. Each shows a
sprite on a colour, or two sprites together, that training images never do. Every answer comes from
`MMInterleaved.generate`, greedily for text and with guidance for images. `trainer.evaluation.tasks` says what the model
is given and how an answer is scored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from models.program import explained, run_program
from models.urls import local_path
from trainer.benchmarks.arguments import add_benchmark_options, is_about_benchmarks, run_benchmarks
from trainer.errors import UsageError
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.options.renamed import refuse_renamed_options
from trainer.process.environment import num_cores
from trainer.process.out_directory import make_room_for

PROGRAM = "python -m trainer.evaluate"

RENAMED_OPTIONS = {
    "--num_pictures": "--num-images",
    "--num_steps": "--num-steps",
    "--guidance_scale": "--guidance-scale",
    "--num_workers": "--num-workers",
}
"""Options by their earlier names."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for wrong use."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model_dir",
        nargs="?",
        type=local_path,
        metavar="MODEL",
        help="what MMInterleaved.save_pretrained or models.convert wrote; for benchmarks also what export.trt wrote",
    )
    add_benchmark_options(parser)
    emoji = parser.add_argument_group("the emoji world")
    emoji.add_argument(
        "--tasks", nargs="+", default=list(defaults.tasks), metavar="TASK", help=f"of {', '.join(EVALUATION_TASKS)}"
    )
    emoji.add_argument(
        "--count",
        type=int,
        default=defaults.num_texts,
        help="documents of each family answered in writing; default: %(default)s",
    )
    emoji.add_argument(
        "--num-images", type=int, help="documents of each family answered with an image; default: half of --count"
    )
    parser.add_argument(
        "--num-steps",
        type=int,
        help=f"denoising steps an image; default: {defaults.num_steps}, in benchmarks the paper's 250",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        help=f"1 is none; default: {defaults.guidance_scale}, in benchmarks the paper's 3.5",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the images' noise; default: %(default)s")
    parser.add_argument(
        "--device", default="auto", help="auto is the GPU where there is one; or cpu, cuda, cuda:1, ...; default: auto"
    )
    emoji.add_argument(
        "--num-workers",
        type=int,
        help=f"processes that answer; 0: this one, as always on a GPU; default on the CPU: {num_cores()}",
    )
    emoji.add_argument(
        "--config", type=local_path, help="a run's config.yaml, for its world; default: the model's own run"
    )
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="PATH",
        help="a JSON file for all results; for benchmarks the folder of the run",
    )
    try:
        refuse_renamed_options(sys.argv[1:] if arguments is None else arguments, RENAMED_OPTIONS)
    except UsageError as error:
        parser.error(str(error))
    given = parser.parse_args(arguments)
    if is_about_benchmarks(given):
        return run_benchmarks(parser, given)
    if given.model_dir is None:
        parser.error("MODEL is missing: the directory of a model.")
    if given.num_workers is not None and given.num_workers < 0:
        parser.error(f"--num-workers is {given.num_workers}; expected 0 or more.")

    # here, for --help needs neither PyTorch nor what is built on it
    from models import MMInterleaved
    from models.json_files import write_json
    from trainer.evaluation.evaluated_model import describe_weights, world_of
    from trainer.evaluation.evaluator import evaluate, table
    from trainer.evaluation.progress import show_progress
    from trainer.run import choose_device

    try:
        device = choose_device(given.device)
        on_cpu = device.type == "cpu"
        if given.num_workers and not on_cpu:
            raise UsageError(
                f"--num-workers is {given.num_workers}, with --device {device}; expected 0, for a GPU holds the model "
                "once, or --device cpu."
            )
        if given.out is not None:
            make_room_for(given.out)
        num_workers = given.num_workers if given.num_workers is not None else num_cores() if on_cpu else 0
        world = world_of(given.model_dir, given.config)
        settings = Settings(
            tasks=tuple(given.tasks),
            num_texts=given.count,
            num_images=max(given.count // 2, 1) if given.num_images is None else given.num_images,
            num_steps=defaults.num_steps if given.num_steps is None else given.num_steps,
            guidance_scale=defaults.guidance_scale if given.guidance_scale is None else given.guidance_scale,
            seed=given.seed,
            num_concepts=world.num_concepts,
            num_sprites=world.num_sprites,
        )
        model = MMInterleaved.from_pretrained(given.model_dir, device=device)
    except (UsageError, OSError, ValueError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    result = evaluate(
        model,
        settings,
        weights=describe_weights(given.model_dir, model),
        num_workers=num_workers,
        progress=show_progress,
    )
    show_progress("")
    print(table(result))
    print(f"{result.wall_s:.0f} s; weights {result.weights['sha256'][:12]}")
    if given.out is not None:
        write_json(given.out, result.to_dict())
        print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
