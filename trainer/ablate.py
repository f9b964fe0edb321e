"""`python -m trainer.ablate mmfs`: the same model with and without MMFS, over several seeds, in one table.

All runs of a comparison share seed, data and budget, and begin with the same pre-trained image encoder, which stays as
it is. What is finished is not made again, so a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.program import run_program
from models.urls import local_path
from models.write_errors import WriteError
from trainer.ablation.plan import PROGRAM, STUDIES, Plan
from trainer.ablation.scales import SCALES
from trainer.errors import NonFiniteError, OutOfMemoryError, UsageError
from trainer.process.out_directory import make_directory
from trainer.run_files import MODEL


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; expected 1 or more.")
    if given.minutes is not None and given.minutes <= 0:
        parser.error(f"--minutes is {given.minutes}; expected a number above 0.")
    if given.budget <= 0:
        parser.error(f"--budget is {given.budget}; expected a number above 0.")
    study, scale = STUDIES[given.study], SCALES[given.scale]
    if strange := sorted(set(given.lessons or ()) - set(scale.lessons)):
        parser.error(f"--lessons has {strange[0]}; expected some of {', '.join(scale.lessons)}.")

    # here, for --help needs neither PyTorch nor what is built on it
    from trainer.ablation.runs import Bench
    from trainer.ablation.starts import ENCODER
    from trainer.ablation.study import carry_out, print_plan

    plan = Plan(study, scale, tuple(dict.fromkeys(given.lessons or study.lessons)), given.seeds, given.budget)
    encoder = scale.encoder if scale.encoder is not None else given.out / ENCODER / MODEL
    bench = Bench(scale, given.out, encoder)
    try:
        done = {run: result for run in plan.runs if (result := bench.result(run)) is not None}
        if given.dry_run:
            print_plan(plan, done)
            return 0
        make_directory(given.out)
        return carry_out(plan, done, bench, given.minutes)
    except UsageError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, OutOfMemoryError, WriteError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: stopped during an evaluation, which begins again when the same command is given.")
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="Exit code: 0 done or paused by --minutes, 1 a non-finite gradient, a full memory or disk, 2 wrong use, "
        "3 SIGTERM or SIGHUP, 130 Ctrl-C.",
    )
    parser.add_argument(
        "study", choices=STUDIES, help="; ".join(f"{study.name}: {study.question}" for study in STUDIES.values())
    )
    parser.add_argument(
        "--out", type=local_path, default=Path("runs/ablate"), help="directory of all runs; %(default)s"
    )
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="sizes; gpu has not been run yet; %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...; %(default)s of them")
    parser.add_argument(
        "--lessons",
        nargs="+",
        metavar="LESSON",
        help="what the runs learn: search (reading numbers step by step), search_images (of several images too), "
        "questions (answered without steps), label_map; default: search",
    )
    parser.add_argument(
        "--budget", type=float, default=1.0, help="steps of each run, as a multiple of the lesson's; %(default)s"
    )
    parser.add_argument("--minutes", type=float, help="pause after so many; default: none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made and how long it takes")
    return parser


if __name__ == "__main__":
    sys.exit(run_program(main))
