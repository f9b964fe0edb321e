"""What a command line of the trainer asks for, done; what does it is imported after the options are read."""

from __future__ import annotations

import sys
from collections.abc import Callable

from models.object_storage import StorageError, filesystem_of
from models.urls import check_url, is_url
from models.write_errors import WriteError
from trainer.errors import NonFiniteError, OutOfMemoryError, RendezvousError, UnusableDataError, UsageError
from trainer.options.parser import Command
from trainer.process.interrupt import Interrupted


def carry_out(program: str, parse_command: Callable[[], Command]) -> int:
    """Do what a command line asks for, and say in a sentence why it cannot be done; returns the exit code."""
    try:
        return _run(parse_command())
    except UsageError as error:
        if _is_first_here():  # the others say the same
            print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, OutOfMemoryError, UnusableDataError, StorageError, WriteError) as error:
        from trainer.run import sentence_of

        if _is_first_here() or not isinstance(error, NonFiniteError):
            print(f"{program}: {sentence_of(error)}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        if _is_first_here():
            print(f"{program}: {interrupted}", file=sys.stderr)
        return interrupted.stop.exit_code
    except RendezvousError as error:
        return tell_who_is_missing(error, "Where starting takes longer, set --parallel.join_minutes.")


def tell_who_is_missing(error: RendezvousError, advice: str = "") -> int:
    """Say why the processes of a command have not met; returns the exit code."""
    from trainer.process.distributed import rank
    from trainer.process.watchdog import EXIT_STUCK

    print(f"process {rank()}: {error} {advice}".rstrip(), file=sys.stderr)
    return EXIT_STUCK


def _run(command: Command) -> int:
    """Estimate the run, try some steps of it, or make it."""
    from trainer.cost.estimate import estimate
    from trainer.cost.gpu_memory import Machine
    from trainer.run import make_dry_run, make_run
    from trainer.run_directory import require_room

    for option, place in (("--out", command.config.out), ("--init", command.config.init), ("--resume", command.resume)):
        if place is not None and is_url(place):
            check_readable(option, place)
    if command.dry_run is not None:
        return make_dry_run(command.config, command.dry_run)
    if command.estimate is not None:
        print(estimate(command.config, Machine.parse(command.estimate)))
        return 0
    require_room(command.config.out)
    return make_run(command.config, resume=command.resume, change=command.change)


def check_readable(option: str, url: str) -> None:
    """Raise UsageError if nothing here can read the URL that an option names."""
    try:
        filesystem_of(check_url(url, option))
    except (ImportError, ValueError) as error:
        raise UsageError(str(error)) from error


def _is_first_here() -> bool:
    """Whether this is the first process of a run on this machine."""
    from trainer.process.distributed import local_rank

    return local_rank() == 0
