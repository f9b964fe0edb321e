"""Which settings of a run decide what is learned, so that a resumed run must have the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("parallel", "memory", "logging", "checkpoint", "profile"),
        *("out", "max_minutes", "max_skipped_in_a_row", "device", "num_threads", "num_workers", "compile"),
        "history",
    }
)
"""Settings, or groups of them, that do not decide what is learned, so that a resumed run may have others."""

CORPUS_MAY_CHANGE_ON_RESUME = frozenset({"manifest", "max_broken", "allow_changed", "cache", "cache_gb"})
"""The same of `corpus`: a manifest may have moved, as long as its fingerprint is the same."""


def changed_settings(saved: Mapping[str, Any], now: Any) -> list[str]:
    """What differs and decides what is learned: "key: saved value -> value now".

    Args:
        saved: what such settings once were, as plain lists, dicts and numbers. One that it lacks, as it may have been
            written before there was such a setting, had its default.
        now: a dataclass.
    """
    before, after = flattened(completed_settings(saved, now)), flattened(_plain(now))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if not decides_nothing(key, after) and before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


def completed_settings(saved: Mapping[str, Any], now: Any) -> dict[str, Any]:
    """Saved settings as plain lists, dicts and numbers, with the defaults of those that they lack."""
    return _plain(_completed(saved, now))


def decides_nothing(key: str, now: Mapping[str, Any]) -> bool:
    """Whether a setting may differ on resume, by its dotted name; `now` are the flattened settings."""
    head, _, rest = key.partition(".")
    last = rest.rpartition(".")[2]
    if head == "corpus" and last == "fingerprint":
        return bool(now.get("corpus.allow_changed"))
    return head in MAY_CHANGE_ON_RESUME or (head == "corpus" and last in CORPUS_MAY_CHANGE_ON_RESUME)


_ABSENT = object()


def _completed(saved: Any, now: Any) -> Any:
    """`saved` with those settings too that it lacks and that have their defaults now."""
    if not isinstance(saved, Mapping):
        return saved
    if isinstance(now, Mapping):
        return {name: _completed(value, now.get(name)) for name, value in saved.items()}
    completed = dict(saved)
    for setting in dataclasses.fields(now) if dataclasses.is_dataclass(now) else ():
        value = getattr(now, setting.name)
        if setting.name in saved:
            completed[setting.name] = _completed(saved[setting.name], value)
        elif value == _default(setting):
            completed[setting.name] = value
    return completed


def _default(setting: dataclasses.Field[Any]) -> Any:
    """What equals nothing, for a setting that has no default."""
    if setting.default_factory is not dataclasses.MISSING:
        return setting.default_factory()
    return setting.default


def _plain(settings: Any) -> Any:
    return json.loads(json.dumps(settings, default=dataclasses.asdict))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
