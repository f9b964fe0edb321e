"""`python -m trainer.demo`: train the toy model, evaluate it, export it, and write a page that shows it all.

The training goes on from the weights in `trainer/weights/toy`, which the same command made in a longer run. Stopped
with Ctrl-C, the demo goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.program import run_program
from models.urls import local_path
from trainer.demo.options import PROGRAM, SHIPPED, Options
from trainer.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for wrong use, or that of the training or export that failed."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--out", type=local_path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--from",
        dest="start",
        default=str(SHIPPED),
        metavar="DIR",
        help="the weights to go on from; none: random ones. Default: those that came with the repository",
    )
    parser.add_argument("--minutes", type=float, help="train no longer than this; default: the recipe's limit")
    parser.add_argument("--quick", action="store_true", help="a few steps and documents: does everything work?")
    given = parser.parse_args(arguments)
    start = None if given.start == "none" else relative(Path(given.start))
    from trainer.demo.stages import run  # here, for --help needs neither PyTorch nor what is built on it

    try:
        return run(Options(given.out, start, given.minutes, given.quick))
    except (UsageError, FileNotFoundError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def relative(path: Path) -> Path:
    """Seen from the working directory where it lies below it, so that commands on the page mean something elsewhere."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(run_program(main))
