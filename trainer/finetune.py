"""`python -m trainer.finetune TASK --init MODEL_DIR [options]`: teach a trained model one task.

TASK is vqa, rec, seg2img, story or instruct (the paper's appendix B.2, Tables 12 to 15, and a chat), or one of them
with toy_ before it: the same in the emoji world, from the shipped weights, which need no --init. The settings are those
of `trainer.pretrain`, and so are the run directory, `--resume` and the exit codes; the model is that of MODEL_DIR, at
the task's size of images.

A task reads its published data sets, or JSON lines with one sample each (`trainer.data.sources.published` lists the
forms of the former, `trainer.data.sources.tasks` the keys of the latter), once they are indexed:

    python -m trainer.data.index refcoco --form refcoco --images train2014 --out data/rec
    python -m trainer.finetune rec --init MODEL_DIR --manifest data/rec
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial, update_wrapper

from models.program import run_program
from trainer.command_line import carry_out
from trainer.errors import UsageError
from trainer.options.parser import Command, Recipes, parse
from trainer.recipes import FINETUNING

PROGRAM = "python -m trainer.finetune"
NAMED = "TASK"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (`--help` lists them)."""
    given = sys.argv[1:] if arguments is None else arguments
    return carry_out(PROGRAM, lambda: parse_task(given))


def parse_task(arguments: Sequence[str]) -> Command:
    """Turn `TASK [options]` into a configuration: the task's recipe for the model of `init`, changed by the options.

    Raises:
        UsageError: the task, the model or an option is missing or unknown.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    has_file = any(option.partition("=")[0] in ("--config", "--help", "-h") for option in arguments)
    if not named and not has_file:
        raise UsageError(f"Which task? Expected one of {', '.join(FINETUNING)} before the options.")
    if named and arguments[0] not in FINETUNING:
        raise UsageError(f"There is no task '{arguments[0]}'. Tasks: {', '.join(FINETUNING)}.")
    default = next(iter(FINETUNING))
    asks = any(option.startswith("--print_config") for option in arguments)
    quiet = [option for option in arguments if not option.startswith("--print_config")]
    first = parse(quiet, FINETUNING, default, PROGRAM, NAMED).config  # which says the model that the recipe is for
    if first.init is None:
        raise UsageError(
            f"Fine-tuning starts from a trained model: {PROGRAM} {first.recipe} --init MODEL_DIR, a directory written "
            "by a run (its model/), by MMInterleaved.save_pretrained or by python -m models.convert."
        )
    return parse(arguments if asks else quiet, recipes_for(first.init), default, PROGRAM, NAMED)


def recipes_for(init: str) -> Recipes:
    """The recipes of all tasks for the model in a directory. Raises UsageError if there is none."""
    from trainer.starting_model import settings_of  # here, for --help needs no PyTorch

    model = settings_of(init)
    return {name: update_wrapper(partial(recipe, model), recipe) for name, recipe in FINETUNING.items()}


if __name__ == "__main__":
    sys.exit(run_program(main))
