"""The settings that a run goes on with: those of its checkpoint, the changes made since, and the command's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models.object_path import Place, place_of
from trainer.change_history import ChangedSetting, SettingsChange, differences, redone, undone
from trainer.config import TrainConfig
from trainer.data.corpus_stream import DataStart
from trainer.errors import UsageError
from trainer.options.change import apply_change, decides_order, refuse_impossible
from trainer.options.changed_settings import changed_settings, completed_settings, decides_nothing, flattened
from trainer.options.parser import Recipes, load, settings_of
from trainer.run_files import MODEL, SETTINGS
from trainer.step.checkpoint import Checkpoint


def with_fingerprints(config: TrainConfig) -> TrainConfig:
    """The settings with the fingerprints of their data written down. Raises UsageError if there are others already."""
    if config.corpus is None:
        return config
    try:
        return replace(config, corpus=config.corpus.with_fingerprints())
    except ValueError as error:
        raise UsageError(str(error)) from error


def resumed_settings(
    command: TrainConfig, start: Checkpoint | None, saved: Mapping[str, Any], change: Sequence[str], recipes: Recipes
) -> TrainConfig:
    """The settings that a run goes on with from `start`, all its changes in their `history`.

    The command may give the settings that the run began with, those that it has now, or any that it had in between: the
    changes made since hold. A change that the checkpoint has not seen begins with it.

    Args:
        command: the settings of the command.
        start: the checkpoint; None: the run ended before its first one.
        saved: the settings of the checkpoint, or of a run without one.
        change: assignments of `--change`.
        recipes: by name.

    Raises:
        UsageError: the command gives other settings, or the run cannot go on with such a change.
    """
    out = place_of(command.out)
    config = replace(command, history=[])
    saved = completed_settings(saved, _with_fingerprints_of(config, saved))
    latest = _written_since(out, saved, recipes)
    changes = [*settings_of(latest, recipes).history] if latest.get("history") else []
    for place in range(len(changes), -1, -1):
        state = undone(latest, changes[place:])
        same = _with_fingerprints_of(config, state)
        if not changed_settings(state, same):
            break
    else:
        there = start.path if start is not None else out
        file = (start.path.parent.parent if start is not None else out) / SETTINGS
        changed = changed_settings(latest, _with_fingerprints_of(config, latest))
        raise UsageError(
            f"The settings differ from those of {there} (there -> now): {'; '.join(changed)}. "
            f"Go on with the same ones (--config {file}), change some on the way (--change NAME=VALUE), or make a new "
            f"run (--out {out}-2), from the weights of a finished or paused one if you like (--init RUN/{MODEL})."
        )
    config = settings_of(redone(same.to_dict(), changes[place:]), recipes) if changes[place:] else same
    if start is None:
        if change:
            raise UsageError(
                f"The run in {out} has no checkpoint yet, so there is nothing for --change to keep. Make a new run "
                f"with these settings (--out {out}-2), or remove {out} first."
            )
        return with_fingerprints(config)
    config = with_fingerprints(apply_change(config, change, recipes) if change else config)
    made = changes[: len(saved.get("history") or ())]
    new = _new_change(saved, made, config, start, recipes)
    if new:  # names in one order, whatever it was in the command: it decides which row is of which source or task
        config = settings_of(redone(undone(config.to_dict(), new), new), recipes)
    return replace(config, history=[*made, *new])


def load_settings(out: Place, recipes: Recipes) -> TrainConfig:
    """The settings in the config.yaml of a run, which is there."""
    if isinstance(out, Path):
        return load(out / SETTINGS, recipes)
    with TemporaryDirectory() as folder:
        file = Path(folder, SETTINGS)
        file.write_bytes((out / SETTINGS).read_bytes())
        return load(file, recipes)


def _new_change(
    saved: Mapping[str, Any], made: Sequence[SettingsChange], config: TrainConfig, start: Checkpoint, recipes: Recipes
) -> list[SettingsChange]:
    """What of the settings of a checkpoint is another from there on: one change, or none."""
    after = config.to_dict()
    settings = _deciding(saved, after)
    if not settings:
        return []
    refuse_impossible(settings, saved, after, phase=start.phase, step=start.step)
    rows_passed = None
    if config.corpus is not None and any(map(decides_order, settings)):
        before = settings_of(saved, recipes)
        assert before.corpus is not None, "a corpus does not come or go on the way"
        passed = DataStart.of(made).rows_passed_at(before.corpus, before.seed, start.step)
        rows_passed = {name: count for name, count in passed.items() if name in config.corpus.sources}
    return [SettingsChange(start.phase, start.step, settings, rows_passed)]


def _written_since(out: Place, saved: Mapping[str, Any], recipes: Recipes) -> Mapping[str, Any]:
    """The settings in config.yaml if they have changes that the checkpoint has not seen, else the checkpoint's.

    Raises:
        UsageError: config.yaml was changed otherwise.
    """
    file = out / SETTINGS
    if not file.is_file():
        return saved
    written = load_settings(out, recipes)
    made = list(saved.get("history") or ())
    latest = written.to_dict()
    if len(latest["history"]) <= len(made):
        return saved
    before = undone(latest, written.history[len(made) :])
    odd = _deciding(saved, before)
    if latest["history"][: len(made)] != made or odd:
        raise UsageError(
            f"{file} tells of changes that do not lead to it from the settings of the checkpoint"
            f"{': ' + '; '.join(map(str, odd)) if odd else ''}. It is written by the run alone; put it back, or remove "
            "it to go on with the settings of the checkpoint, and change them with --change."
        )
    return latest


def _deciding(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ChangedSetting]:
    """What differs and decides what is learned."""
    flat = flattened(after)
    return [changed for changed in differences(before, after) if not decides_nothing(changed.name, flat)]


def _with_fingerprints_of(config: TrainConfig, saved: Mapping[str, Any]) -> TrainConfig:
    """The settings with those fingerprints of the same sources that were written down, where the command has none."""
    if config.corpus is None:
        return config
    written = ((saved.get("corpus") or {}).get("sources")) or {}
    sources = {
        name: replace(source, fingerprint=written[name].get("fingerprint"))
        if source.fingerprint is None and name in written
        else source
        for name, source in config.corpus.sources.items()
    }
    return replace(config, corpus=replace(config.corpus, sources=sources))
