"""A run's log in Weights & Biases, for those who name a project."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.logging.log_file import read_log
from trainer.run_files import LOG
from trainer.run_storage import local_folder

EVENT = "wandb"
"""In log.jsonl, the record that names the project and the `run_id`."""

GOOD_ENDS = ("done", "paused")
"""The last record of a run that did what it was told to; an error and a signal leave another one, or none."""


class WandbRun:
    """One run of a project, as `RunLog` fills it.

    Whether records are sent at once or kept in RUN/wandb for `wandb sync` is wandb's own setting (`wandb offline`).

    Args:
        directory: the run directory.
        project: its name.
        settings: of the run, for wandb's table of runs.
        run_id: of the run to go on with; None: a new one.

    Raises:
        UsageError: wandb is missing, or refuses the run.
    """

    def __init__(self, directory: Path, project: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        wandb = _wandb(project)
        try:
            self._run: Any = wandb.init(
                project=project,
                name=directory.resolve().name,
                dir=str(directory),
                config=dict(settings),
                id=run_id,
                resume="allow",
                settings=wandb.Settings(console="off"),  # else it captures the progress line too
            )
        except wandb.Error as error:
            raise UsageError(
                f"wandb refuses the run of project '{project}': {error} Log in (`wandb login`), or keep the records on "
                "this machine (`wandb offline`), or leave logging.wandb null."
            ) from error
        self._exit_code = 1
        # By the run's own count: a resumed run may make steps again, and wandb's may not go back.
        self._run.define_metric("*", step_metric="step")

    @property
    def run_id(self) -> str:
        """What goes on with this run."""
        return str(self._run.id)

    def step(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        # The summary keeps the last one of each kind.
        self._run.summary.update({name: dict(facts)})
        if name in GOOD_ENDS:
            self._exit_code = 0

    def close(self) -> None:
        """Tell wandb that the run is over, and that it failed unless one of GOOD_ENDS was recorded."""
        self._run.finish(exit_code=self._exit_code)


def join_project(config: TrainConfig) -> WandbRun:
    """The run of the project `config.logging.wandb` that the run directory's log names, or a new one.

    Raises:
        UsageError: wandb is missing, or refuses the run.
    """
    assert config.logging.wandb is not None
    directory = local_folder(config.out)
    records = read_log(directory) if (directory / LOG).exists() else iter(())
    run_ids = [
        record["run_id"]
        for record in records
        if record.get("event") == EVENT and record["project"] == config.logging.wandb
    ]
    return WandbRun(directory, config.logging.wandb, config.to_dict(), run_ids[-1] if run_ids else None)


def require_wandb(project: str | None) -> None:
    """Raise UsageError if there is a project and no wandb."""
    if project is not None:
        _wandb(project)


def _wandb(project: str) -> Any:
    try:
        return importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"logging.wandb is '{project}', and the package is missing: pip install 'mmfs[wandb]'. Or leave it "
            "null; log.jsonl and TensorBoard have the same."
        ) from error
