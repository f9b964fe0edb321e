"""`--change`: which settings of a run may change while it goes on, and what the others would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from trainer.change_history import BY_NAME, ChangedSetting, assign
from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.options.changed_settings import CORPUS_MAY_CHANGE_ON_RESUME, MAY_CHANGE_ON_RESUME
from trainer.options.errors import problem_of
from trainer.options.parser import Recipes, settings_of

MAY_CHANGE = (
    "num_steps",
    "optim",
    "ema_decay",
    "model.image_loss_weight",
    "corpus.num_rows",
    "corpus.sources",
    "data.num_rows",
    "data.row_tokens",
    "data.num_sprites",
    "data.ramp_steps",
    "data.tasks",
)
"""Settings, or groups of them, that a run may change while it goes on. Of a source that stays, only its weight may: all
else decides which samples its rows take, and so which ones come next."""


def apply_change(config: TrainConfig, assignments: Sequence[str], recipes: Recipes) -> TrainConfig:
    """The settings after `NAME=VALUE ...`; values are YAML, and null removes a source or a task.

    Raises:
        UsageError: an assignment has another form, or there is no such setting, or its value is of another type.
    """
    values = config.to_dict()
    for assignment in assignments:
        name, has_value, text = assignment.partition("=")
        if not has_value:
            raise UsageError(f"--change has {assignment!r}; expected NAME=VALUE, such as optim.lr=3e-4.")
        name = name.removeprefix("--")
        _refuse_option(name)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        is_removed = value is None and name.rpartition(".")[0] in BY_NAME
        if not is_removed and (problem := problem_of(name, value, TrainConfig)) is not None:
            raise UsageError(f"--change {assignment}: {problem}")
        try:
            assign(values, name, value)
        except (KeyError, TypeError):
            raise UsageError(f"--change {assignment}: the run has no setting {name!r} to change.") from None
    return settings_of(values, recipes)


def decides_order(changed: ChangedSetting) -> bool:
    """Whether a changed setting decides which samples of which source a row of the corpus takes."""
    *path, last = changed.name.split(".")
    if path[:2] == ["corpus", "sources"]:
        return len(path) == 2 or last == "weight"
    return changed.name == "corpus.num_rows"


def _refuse_option(name: str) -> None:
    head, _, rest = name.partition(".")
    if head == "out":
        raise UsageError(f"--change {name}: give the directory as it is, --out; a branch goes on in another one.")
    if head in MAY_CHANGE_ON_RESUME or (head == "corpus" and rest in CORPUS_MAY_CHANGE_ON_RESUME):
        raise UsageError(
            f"--change {name}: this decides nothing of what is learned, and any command may give it: --{name} VALUE."
        )


def refuse_impossible(
    changes: Sequence[ChangedSetting], before: Mapping[str, Any], after: Mapping[str, Any], *, phase: str, step: int
) -> None:
    """Raise UsageError with what would be needed if a run cannot go on with such changes.

    Args:
        changes: what differs.
        before: the settings of the checkpoint.
        after: those to go on with.
        phase: which the checkpoint is of.
        step: how many of its steps are done.
    """
    for changed in changes:
        if (reason := _reason(changed, phase)) is not None:
            raise UsageError(f"--change cannot change {changed}: {reason}")
    if phase == "main" and after["num_steps"] < step:
        raise UsageError(
            f"--change num_steps={after['num_steps']}: the run has made {step} steps; expected {step} (which ends it) "
            f"or more. Or go on from an earlier checkpoint: --resume PATH --out DIR."
        )
    if not before["ema_decay"] and after["ema_decay"]:
        raise UsageError(
            f"--change ema_decay={after['ema_decay']}: the checkpoint has no average of its weights. Expected 0, or a "
            "new run that starts from these weights: --init RUN/model."
        )


def _reason(changed: ChangedSetting, phase: str) -> str | None:
    """Why a setting may not change, and what would be needed; None if it may."""
    name = changed.name
    head = name.partition(".")[0]
    if name.startswith("corpus.sources."):
        *_, last = name.split(".")
        if name.count(".") > 2 and last != "weight":
            source = name.split(".")[2]
            return (
                f"it decides which samples the rows of source '{source}' take, so that its position would be another. "
                f"Add the data as it is to be under a name of its own, and remove this source if you like: --change "
                f'\'corpus.sources.NAME={{"manifest": "DIR"}}\' corpus.sources.{source}=null.'
            )
        return None
    if any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_CHANGE):
        return None
    if head == "encoder_pretraining":
        if phase == "encoder" and name.split(".")[1] in ("num_steps", "optim", "images_per_step"):
            return None
        return "the encoder's pre-training is over. A new run has it from its beginning."
    if name == "seed":
        return (
            "it decides the order in which each source is passed, so no position would hold. A new run with it can "
            "start from these weights: --init RUN/model --seed N."
        )
    if head in ("recipe", "init", "init_components", "parts"):
        return "it says what the run began with. A new run can begin otherwise: --out DIR."
    if name == "corpus.row_tokens" or name == "corpus.window_shards":
        return (
            "it decides which samples a row takes, so that no source's position would hold. A new run with it can "
            "start from these weights: --init RUN/model."
        )
    if head == "corpus" or head == "data":
        return (
            "texts and images would become other tokens or another world. A new run can start from these weights: "
            "--init RUN/model."
        )
    if head in ("precision", "float8"):
        return (
            "the checkpoint was trained on top of frozen weights in that dtype. A new run can start from these "
            "weights: --init RUN/model."
        )
    return (
        "it decides which weights there are or which of them learn, and AdamW's state and the checkpoint are of those. "
        "A new run with it can start from these weights: --init RUN/model."
    )
