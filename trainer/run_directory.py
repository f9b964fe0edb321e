"""The directory of a run: what is in it, where a run in it goes on, what is written there before and after training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmfs.plurals import counted
from models import MMInterleaved
from models.atomic_files import wait_for_disk, write_atomically
from models.directory_lock import DirectoryInUse, directory_lock
from models.object_path import ObjectPath, Place, place_of
from models.object_storage import filesystem_of
from models.object_writing import check_writable
from models.tensor_files import WEIGHTS_FILE
from models.urls import check_url, is_url
from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.logging.log_file import forget_steps_after, read_log
from trainer.options.parser import AUTO, NONE, dump
from trainer.options.renamed import refuse_renamed_settings
from trainer.process.distributed import Processes
from trainer.process.interrupt import STOP_FILE
from trainer.process.lease import held_lease
from trainer.process.out_directory import check_directory, make_directory
from trainer.recipes import ALL_RECIPES
from trainer.resumed_settings import load_settings, resumed_settings, with_fingerprints
from trainer.run_files import CHECKPOINTS, LOG, MODEL, ROW_STARTS, SETTINGS
from trainer.run_storage import Storage, empty_folder, fetch, local_folder, take_stop
from trainer.step import checkpoint
from trainer.step.checkpoint import Checkpoint
from trainer.step.checkpoint_manifest import MANIFEST
from trainer.step.phase import Phase

TEXT_OUTPUT = ("*.log", "*.txt", "*.out", "*.err")
"""What a terminal or a queue may have put into a run directory before the run began."""


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    config: TrainConfig
    """The settings that it goes on with, the fingerprints of its data and its history in them."""

    checkpoint: Checkpoint | None = None
    """What it goes on from; None: its settings say what it begins with."""

    note: str | None = None
    """A line about what its directory already holds."""

    is_finished: bool = False
    """There is nothing left to do."""


def find_start(config: TrainConfig, resume: str, change: Sequence[str] = ()) -> Start:
    """Look at the run directory, and at the checkpoint that `resume` names; nothing is written.

    Args:
        config: the settings of the command.
        resume: as `make_run` takes it.
        change: assignments of `--change`.

    Raises:
        UsageError: the run directory holds a run that would be overwritten, or the settings have changed otherwise than
            by `change`, or cannot change so.
    """
    out = place_of(config.out)
    new = f"{out}-2"
    is_begun = holds_run(out)
    if resume == NONE and is_begun:
        raise UsageError(
            f"{out} already holds a run, and nothing of it was touched. Go on with it: the same command without "
            f"--resume {NONE}. Or make a new one elsewhere: --out {new}. Or remove the directory first."
        )
    if resume == NONE or (resume == AUTO and not is_begun):
        if change:
            raise UsageError(
                f"--change is of a run that goes on, and {out} holds none that does. Name one with --resume PATH, or "
                "give a new run its settings as options."
            )
        note = "A new run has the settings that --config tells of from its first step on, without their history."
        return Start(with_fingerprints(replace(config, history=[])), note=note if config.history else None)
    newest = checkpoint.find_latest(out / CHECKPOINTS)
    start = newest if resume == AUTO else checkpoint.find(place_of(resume))
    if newest is None and resume == AUTO and (origin := _branched_from(out)) is not None:
        start = checkpoint.find(origin)
    elif start is not None and resume != AUTO and _is_branch_of(start, place_of(resume), out):
        start = newest or start
    elif start is not None:
        _check_place(start, newest, out)
    saved = start.config if start is not None else _written_settings(out)
    refuse_renamed_settings(saved, str(start.path if start is not None else out / SETTINGS))
    config = resumed_settings(config, start, saved, change, ALL_RECIPES)
    if is_finished(out) and not _is_longer(config, start):
        if start is not None and _is_new(config, saved):
            raise UsageError(
                f"The run in {out} is finished after {counted(start.step, 'step')}, so a change needs more of them to "
                f"change: --change num_steps=N, above {start.step}, with it. Nothing was touched."
            )
        return Start(
            config,
            start,
            f"The run in {out} is finished; its model is {out / MODEL}. For a new one, give another directory "
            f"(--out {new}), and to train this model further --init {out / MODEL} with it.",
            is_finished=True,
        )
    if start is None:
        if broken := checkpoint.find_incomplete(out / CHECKPOINTS):
            raise UsageError(
                f"{broken[-1]} is no complete checkpoint: a file of it is missing or not as it was written, and there "
                "is no other. Nothing was touched. Get it again from where it was copied from, or remove it to begin "
                "again from the start."
            )
        return Start(config, None, f"The run in {out} ended before its first checkpoint: it begins again.")
    if is_begun:
        where = f"after step {start.step} of phase '{start.phase}'"
        note = f"The run in {out} is not finished: it goes on {where}. For a new one: --out {new}."
        if config.history:
            note += f" Its settings changed on the way: {'; '.join(map(str, config.history))}."
        if passed_over := checkpoint.find_incomplete(out / CHECKPOINTS):
            names = ", ".join(path.name for path in passed_over)
            note += f" Passed over, since a file of it is missing or not as it was written: {names}."
        return Start(config, start, note)
    return Start(config, start)


def undamaged_start(
    found: Start, config: TrainConfig, resume: str, processes: Processes, change: Sequence[str] = ()
) -> Start:
    """The same start, if every file of its checkpoint has the content that was written; otherwise, with `resume`
    "auto", that of the newest checkpoint which has. All processes together read all of it once.

    A damaged one is put aside under another name. Since a run is a function of its settings, going on from an earlier
    one makes the same model, later.

    Raises:
        UsageError: the checkpoint that `resume` names is damaged, or the only one.
    """
    notes: list[str] = []
    while (start := found.checkpoint) is not None and (damaged := start.damaged_files(processes)):
        what = (
            f"{start.path} is damaged: {', '.join(damaged[:3])} "
            f"{'does' if len(damaged) == 1 else 'do'} not have the content that was written (SHA-256 in {MANIFEST})."
        )
        others = [one for one in checkpoint.find_all(start.path.parent) if one.path != start.path]
        if resume != AUTO or not others or not is_of_run(start, place_of(config.out)):
            raise UsageError(
                f"{what} Nothing was loaded. Get it again from where it was copied from, or name another checkpoint "
                f"with --resume{'' if others else '; there is no other beside it'}. To begin again from the start, "
                "remove it."
            )
        processes.barrier()  # until every process has seen the others
        if processes.is_first:
            checkpoint.put_aside(start)
        processes.barrier()
        notes.append(f"{what} It was put aside as {checkpoint.damaged_name(start.path)}.")
        found = find_start(config, resume, change)
    return replace(found, note=" ".join([*notes, found.note or ""]).strip() or None)


def holds_run(out: Place) -> bool:
    """Whether a run was begun in a directory."""
    return any((out / name).exists() for name in (SETTINGS, LOG, CHECKPOINTS))


def require_room(place: str) -> None:
    """Look whether a run can be made in a directory: one that holds a run, or nothing, or that is not there yet.

    Raises:
        UsageError: it cannot be made, or holds something else.
    """
    if is_url(place):
        try:
            check_writable(check_url(place, "--out"), "--out")
            filesystem_of(place)
        except (ImportError, ValueError) as error:
            raise UsageError(str(error)) from error
        return
    out = Path(place)
    try:
        is_run = holds_run(out)
    except OSError as error:  # the name is too long, say
        raise UsageError(f"--out is {out}, which cannot be used: {error.strerror}. Name another one.") from error
    if not is_run:
        check_directory(out, own=(STOP_FILE, *TEXT_OUTPUT))
    if (out / STOP_FILE).is_dir():
        raise UsageError(
            f"{out / STOP_FILE} is a directory; expected a file of this name, which stops a run, or nothing. Remove it."
        )


def is_finished(out: Place) -> bool:
    """Whether the run in a directory has come to its end."""
    if not (out / MODEL / WEIGHTS_FILE).is_file() or not (out / LOG).is_file():
        return False
    turns = [
        record["event"] for record in read_log(out, pass_over_damage=True) if record.get("event") in ("start", "done")
    ]
    return turns[-1:] == ["done"]


@contextmanager
def run_directory_lock(out: Path) -> Iterator[None]:
    """Hold a run directory, which is made, against other runs (`models.directory_lock`).

    Raises:
        UsageError: it cannot be made, or another process trains in it.
    """
    make_directory(out)
    with ExitStack() as stack:
        try:
            stack.enter_context(directory_lock(out))
        except DirectoryInUse:
            raise UsageError(
                f"Another process trains in {out} now. Wait for it, end it with a file {out}/STOP, or give another "
                f"directory: --out {out}-2."
            ) from None
        except ValueError as error:
            raise UsageError(str(error)) from error
        yield


def is_of_run(start: Checkpoint, out: Place) -> bool:
    """Whether a checkpoint is one of the run in a directory."""
    return start.path.parent.resolve() == (out / CHECKPOINTS).resolve()


def _branched_from(out: Place) -> Place | None:
    """The checkpoint of another run that the run in a directory began with; None: there is none."""
    if not (out / LOG).is_file():
        return None
    records = read_log(out, pass_over_damage=True)
    first = next((record for record in records if record.get("event") == "start"), {})
    return place_of(first["resumed_from"]) if first.get("resumed_from") else None


def _is_branch_of(start: Checkpoint, named: Place, out: Place) -> bool:
    """Whether the run in `out` began with what `--resume` names, a checkpoint or a run, and so goes on by itself."""
    origin = _branched_from(out)
    if origin is None or is_of_run(start, out):
        return False
    if start.path.resolve() == named.resolve():
        return start.path.resolve() == origin.resolve()
    return start.path.parent.resolve() == origin.parent.resolve()


def _is_longer(config: TrainConfig, start: Checkpoint | None) -> bool:
    """Whether steps of the main training are left after a checkpoint."""
    return start is not None and start.phase == "main" and config.num_steps > start.step


def _is_new(config: TrainConfig, saved: Mapping[str, Any]) -> bool:
    """Whether the last change is one that the checkpoint has not seen."""
    return len(config.history) > len(saved.get("history") or ())


def _check_place(start: Checkpoint, newest: Checkpoint | None, out: Place) -> None:
    """Raise UsageError if going on from `start` would mix or undo what `out` holds."""
    is_own = is_of_run(start, out)
    if is_own and newest is not None and start.path.name != newest.path.name:
        raise UsageError(
            f"{start.path} is not the newest checkpoint of {out}; {newest.path} is. Go on from that one with --resume, "
            f"or branch off into another directory: --resume {start.path} --out {out}-2."
        )
    if not is_own and holds_run(out):
        raise UsageError(
            f"{start.path} belongs to another run than the one that {out} already holds. Give the directory of the "
            f"checkpoint (--out {start.path.parent.parent}) or a new one (--out {out}-2)."
        )


def _written_settings(out: Place) -> Mapping[str, Any]:
    """The settings of a run without a checkpoint. Raises UsageError if it has left none."""
    if not (out / SETTINGS).is_file():
        raise UsageError(
            f"{out} holds something of a run, but neither a complete checkpoint nor {SETTINGS} to go on with. Give "
            f"another directory (--out {out}-2), or remove this one first."
        )
    return load_settings(out, ALL_RECIPES).to_dict()


def prepare_directory(config: TrainConfig, phases: Sequence[Phase], start: Checkpoint | None) -> None:
    """Write config.yaml into a run directory that is there, and take back what its log says about steps not kept."""
    out = local_folder(config.out)
    if start is not None and isinstance(start.path, Path) and not is_of_run(start, out):
        with suppress(OSError):  # they save work, and are made anew where they cannot be had
            shutil.copytree(start.path.parent.parent / ROW_STARTS, out / ROW_STARTS, dirs_exist_ok=True)
    write_atomically(out / SETTINGS, dump(config, ALL_RECIPES))
    if start is None:
        forget_steps_after(out, [phase.name for phase in phases], phases[0].name, 0)
    else:
        forget_steps_after(out, [phase.name for phase in phases], start.phase, start.step)


def save_model(model: MMInterleaved, directory: Path, *, is_main_process: bool = True) -> None:
    """`save_pretrained`, written aside first: `directory` is the old model or the new one, never a half. A kill between
    two renames leaves none, with both beside it; the run, which has not told its end, then writes it again."""
    unfinished = directory.with_name(f".{directory.name}")
    if not is_main_process:
        model.save_pretrained(unfinished, is_main_process=False)
        return
    replaced = directory.with_name(f".{directory.name}.replaced")
    for left_over in (unfinished, replaced):
        if left_over.exists():
            shutil.rmtree(left_over)
    model.save_pretrained(unfinished)
    if directory.exists():
        directory.rename(replaced)
    unfinished.rename(directory)
    wait_for_disk(directory.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


@contextmanager
def held_run(out: str, processes: Processes, say: Callable[[str], None]) -> Iterator[Storage | None]:
    """Hold the place of a run against other runs, in every process; what `say` gets is said by the first one.

    Returns:
        For a run in object storage, in the first process, how its files come there; else None.

    Raises:
        UsageError: another process trains there, or it cannot be used.
        StorageError: the storage does not answer.
    """
    place, folder = place_of(out), local_folder(out)
    with ExitStack() as stack:
        if isinstance(place, Path):
            if processes.is_first:
                stack.enter_context(run_directory_lock(folder))
            yield None
            return
        if processes.local_rank == 0:
            stack.enter_context(run_directory_lock(folder))
            empty_folder(folder)
        if not processes.is_first:
            yield None
            return
        lease = stack.enter_context(held_lease(place, say, partial(take_stop, place, folder)))
        fetch(place, folder)
        yield Storage(place, folder, lease)


def remove_left_over_checkpoints(out: Place, keep_latest: int) -> None:
    """Remove what a killed process has left of old checkpoints, unless another process works in the directory."""
    if isinstance(out, ObjectPath):  # whose lease is not worth taking for it
        return
    with suppress(UsageError), run_directory_lock(out):
        checkpoint.remove_left_over(out / CHECKPOINTS, keep_latest)
