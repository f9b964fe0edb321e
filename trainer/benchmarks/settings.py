"""What decides the predictions of a run. A run that goes on has to have the same settings as when it began."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.digests import digests_of
from models.json_files import read_json, write_json
from trainer.errors import UsageError

SETTINGS_FILE = "settings.json"


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of some files, in their order.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        digests = digests_of(files)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def begin_or_go_on(directory: Path, settings: Mapping[str, Any], others: Sequence[str]) -> None:
    """Write the settings of a new run, or check that they are those with which it began.

    Args:
        directory: the benchmark's folder, which is there.
        settings: plain data.
        others: names of files that a run has; if one is there without settings, the folder is something else.

    Raises:
        UsageError: they differ; the first difference is named.
    """
    file = directory / SETTINGS_FILE
    if not file.is_file():
        found = [path.name for pattern in others for path in directory.glob(pattern)]
        if found:
            raise UsageError(f"{directory} holds {found[0]} but no {SETTINGS_FILE}. Name another --out.")
        write_json(file, settings)
        return
    try:
        before = read_json(file)
    except ValueError as error:
        raise UsageError(f"{error} --overwrite begins anew.") from error
    for name, then, now in _differences(before, settings):
        raise UsageError(
            f"{directory} was begun with {name} {then}, and now it is {now}. Go on with the former, or begin anew with "
            "--overwrite or another --out."
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterable[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*now, *(key for key in before if key not in now)]:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield name or "settings", repr(before), repr(now)
