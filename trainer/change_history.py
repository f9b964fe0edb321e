"""What was changed of a run's settings while it went on: the record that its config.yaml and its checkpoints keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

BY_NAME = ("corpus.sources", "data.tasks")
"""Settings whose entries have names of the user's, so that one may be added or removed."""


@dataclass(frozen=True)
class ChangedSetting:
    """One setting, or a whole entry of `BY_NAME` that was added or removed."""

    name: str
    """Dotted."""

    before: Any = None
    """As plain lists, dicts and numbers; of an added entry, null."""

    after: Any = None
    """Of a removed entry, null."""

    def __str__(self) -> str:
        return f"{self.name}: {_said(self.before)} -> {_said(self.after)}"


@dataclass(frozen=True)
class SettingsChange:
    """A change of a run that went on from a checkpoint."""

    phase: str
    """Which the checkpoint is of."""

    step: int
    """Steps of the phase that were done before it."""

    settings: list[ChangedSetting] = field(default_factory=list)
    rows_passed: dict[str, int] | None = None
    """Rows that each source of the corpus had filled before, with the next of which it goes on; one that is not named
    begins. null: the change left the sources, their weights and the number of rows in a batch as they were."""

    def __str__(self) -> str:
        return f"after step {self.step} of phase '{self.phase}' {', '.join(map(str, self.settings))}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ChangedSetting]:
    """Which settings differ between two runs' `to_dict()`, by name; their histories are not compared."""
    return [
        changed
        for name in sorted(before.keys() | after.keys())
        if name != "history"
        for changed in _differences(name, before.get(name), after.get(name))
    ]


def _differences(name: str, before: Any, after: Any) -> Iterator[ChangedSetting]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _differences(f"{name}.{key}", before.get(key), after.get(key))
    elif before != after:
        yield ChangedSetting(name, before, after)


def undone(settings: Mapping[str, Any], changes: Sequence[SettingsChange]) -> dict[str, Any]:
    """The settings before `changes`, the last of which was made last."""
    result = deepcopy(dict(settings))
    for change in reversed(changes):
        for changed in change.settings:
            assign(result, changed.name, changed.before)
    return result


def redone(settings: Mapping[str, Any], changes: Sequence[SettingsChange]) -> dict[str, Any]:
    """The settings after `changes`."""
    result = deepcopy(dict(settings))
    for change in changes:
        for changed in change.settings:
            assign(result, changed.name, changed.after)
    return result


def assign(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a setting by its dotted name; an entry of `BY_NAME` that becomes null is removed.

    Raises:
        KeyError: there is no such setting.
    """
    parent, _, last = name.rpartition(".")
    group: Any = settings
    for part in parent.split(".") if parent else ():
        if not isinstance(group, dict):
            raise KeyError(name)
        group = group[part]
    if not isinstance(group, dict) or (parent not in BY_NAME and last not in group):
        raise KeyError(name)
    if parent in BY_NAME and value is None:
        group.pop(last, None)
    else:
        group[last] = deepcopy(value)


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
