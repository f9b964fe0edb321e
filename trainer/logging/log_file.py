"""log.jsonl, the source of truth about a run: every line is whole, and none that belongs to a checkpoint is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically
from models.object_path import Place
from trainer.errors import UsageError
from trainer.logging.appended_file import AppendedFile
from trainer.run_files import LOG


class LogFile:
    """Appends records, one JSON object a line; a line is in the file as a whole or not at all.

    Args:
        file: made where it is not there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = AppendedFile(file)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a line.

        Raises:
            WriteError: the disk is full, say; the file is as it was.
        """
        self._file.write((json.dumps(record) + "\n").encode())

    def sync(self) -> None:
        """Return when all lines would survive a power cut."""
        self._file.sync()

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def read_log(directory: Place, *, pass_over_damage: bool = False) -> Iterator[dict[str, Any]]:
    """The records of a run's log.jsonl; a last line that a power cut left incomplete is passed over.

    Args:
        directory: the run directory.
        pass_over_damage: pass over other damaged lines too, which a power cut may leave behind the last checkpoint.

    Raises:
        UsageError: a line is damaged.
    """
    for number, line in enumerate((directory / LOG).read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        elif not pass_over_damage:
            raise UsageError(
                f"Line {number} of {directory / LOG} is damaged; expected a JSON object. If the run is not finished, "
                "the command that goes on with it drops the line, and says what the log lacks; else remove the line."
            )


def forget_steps_after(directory: Path, phases: list[str], phase: str, step: int) -> None:
    """Drop the records of steps that a run resumed at `step` of `phase` will make again; events stay.

    Args:
        directory: the run directory.
        phases: names of all phases in their order.
        phase: the phase that goes on.
        step: how many of its steps are done.
    """
    if not (directory / LOG).exists():
        return
    position = (phases.index(phase), step)
    kept = [
        json.dumps(record) + "\n"
        for record in read_log(directory, pass_over_damage=True)
        if "event" in record or (phases.index(record["phase"]), record["step"]) <= position
    ]
    write_atomically(directory / LOG, "".join(kept))


def missing_steps(directory: Path, done: Mapping[str, int]) -> dict[str, list[int]]:
    """The steps by phase that were done and of which the log tells neither what they made nor that they were skipped.

    A run syncs its log before each checkpoint, so there are none, unless the file was damaged. A run that began with a
    checkpoint of another one tells of its own steps alone.

    Args:
        directory: the run directory.
        done: how many steps of each phase are done, in the order of the phases.
    """
    records = list(read_log(directory)) if (directory / LOG).exists() else []
    told: dict[str, set[int]] = {phase: set() for phase in done}
    for record in records:
        if record.get("phase") in told:
            if "event" not in record:
                told[record["phase"]].add(record["step"])
            elif record["event"] == "skipped":
                told[record["phase"]].add(record["step"] + 1)
    first: dict[str, Any] = next((record for record in records if record.get("event") == "start"), {})
    missing: dict[str, list[int]] = {}
    is_own = first.get("resumed_from") is None
    for phase, num_steps in done.items():
        begin = 1 if is_own else min(told[phase], default=num_steps + 1)
        is_own = is_own or bool(told[phase])
        if lacking := sorted(set(range(begin, num_steps + 1)) - told[phase]):
            missing[phase] = lacking
    return missing
