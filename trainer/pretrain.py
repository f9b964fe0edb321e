"""`python -m trainer.pretrain [RECIPE] [options]`: train a model, from its data to `model/`.

The run directory gets config.yaml (the settings, as `--config` reads them), log.jsonl (every step), tensorboard/,
checkpoints/ (the same command goes on from the newest), model/ (for `MMInterleaved.from_pretrained`) and, when it ends,
index.html (its curves); samples/ if asked for; with a corpus, quarantine.jsonl names what of it is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from models.program import run_program
from trainer.command_line import carry_out
from trainer.options.parser import PROGRAM, parse
from trainer.recipes import DEFAULT_RECIPE, RECIPES


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (`--help` lists them)."""
    given = sys.argv[1:] if arguments is None else arguments
    return carry_out(PROGRAM, lambda: parse(given, RECIPES, DEFAULT_RECIPE))


if __name__ == "__main__":
    sys.exit(run_program(main))
