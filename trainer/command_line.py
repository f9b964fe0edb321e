"""What a command line asks for, done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from trainer.config import UsageError
from trainer.cost.estimate import estimate
from trainer.cost.gpu_memory import Machine
from trainer.data.quarantine import UnusableDataError
from trainer.options.parser import Command
from trainer.process.distributed import local_rank
from trainer.run import make_run, rehearse, sentence_of
from trainer.run_directory import require_room
from trainer.step.loop import NonFiniteError
from trainer.step.out_of_memory import OutOfMemoryError


def carry_out(program: str, parse_command: Callable[[], Command]) -> int:
    """Do what a command line asks for, and say in a sentence why it cannot be done; returns the exit code."""
    try:
        command = parse_command()
        if command.dry_run is not None:
            return rehearse(command.config, command.dry_run)
        if command.estimate is not None:
            print(estimate(command.config, Machine.parse(command.estimate)))
            return 0
        require_room(Path(command.config.out))
        return make_run(command.config, resume=command.resume)
    except UsageError as error:
        if local_rank() == 0:  # the others say the same
            print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, OutOfMemoryError, UnusableDataError) as error:
        if local_rank() == 0 or not isinstance(error, NonFiniteError):
            print(f"{program}: {sentence_of(error)}", file=sys.stderr)
        return 1
