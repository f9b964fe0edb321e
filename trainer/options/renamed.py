"""Options and settings that have another name now: the old one is refused with a sentence that gives the new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from trainer.errors import UsageError

RENAMED_SETTINGS: Mapping[str, str] = {
    "log_every": "logging.every",
    "sample_every": "logging.sample_every",
    "wandb": "logging.wandb",
    "peak_tflops": "logging.peak_tflops",
    "checkpoint_every": "checkpoint.every",
    "keep": "checkpoint.keep_latest",
    "micro_batch_rows": "memory.micro_batch_rows",
    "image_chunk": "memory.image_chunk",
    "token_chunk": "memory.token_chunk",
    "recompute": "memory.activation_checkpointing",
    "shard_size": "parallel.shard_size",
    "shard_layers": "parallel.shard_layers",
    "watchdog_minutes": "parallel.watchdog_minutes",
    "init_parts": "init_components",
}
"""Settings of a run by their earlier names, and what they are called now."""

RENAMED_RUN_OPTIONS: Mapping[str, str] = {
    "--dry-run": "--dry_run",
    "--parts.vision": "--parts.vision_encoder",
    "--parts.diffusion": "--parts.image_decoder",
    **{f"--{old}": f"--{new}" for old, new in RENAMED_SETTINGS.items()},
}
"""The same as options of `trainer.pretrain` and `trainer.finetune`."""


def refuse_renamed_options(arguments: Sequence[str], renamed: Mapping[str, str]) -> None:
    """Raise UsageError if a command line holds an option under its old name."""
    given = [argument.partition("=")[0] for argument in arguments]
    if old := _known(given, renamed):
        raise UsageError(" ".join(f"{name} is now called {renamed[name]}." for name in old))


def refuse_renamed_settings(settings: Mapping[str, Any], place: str) -> None:
    """Raise UsageError if saved settings have old names.

    Args:
        settings: of a run, by their names.
        place: where they were read, for the message.
    """
    if old := _known(settings, RENAMED_SETTINGS):
        pairs = ", ".join(f"{name} is now called {RENAMED_SETTINGS[name]}" for name in old)
        raise UsageError(
            f"{place} was written by an older version, whose settings had other names: {pairs}. Change the names there "
            "(each dot is one level of the YAML file), or make a new run."
        )


def refuse_renamed_settings_in_files(arguments: Sequence[str]) -> None:
    """The same for the YAML files that --config names on a command line; the parser tells what cannot be read."""
    for number, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option != "--config":
            continue
        file = Path(value or next(iter(arguments[number + 1 :]), ""))
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, Mapping):
            refuse_renamed_settings(content, str(file))


def _known(names: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name in renamed]
