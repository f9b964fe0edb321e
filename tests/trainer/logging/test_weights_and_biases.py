"""A run's copy in Weights & Biases: what is sent, to a stand-in, and the real package without a network."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from models import MMInterleaved
from trainer.logging.log_file import read_log
from trainer.logging.metrics import RunLog, Step
from trainer.logging.weights_and_biases import EVENT, join_project
from trainer.pretrain import main
from trainer.recipes import tiny
from trainer.system_config import LoggingConfig

TINY = (
    "tiny",
    "--encoder_pretraining.num_steps",
    "0",
    "--num_steps",
    "4",
    "--logging.every",
    "2",
    "--num_workers",
    "0",
)


class StandIn(ModuleType):
    """What a run uses of wandb."""

    Error = type("Error", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[SimpleNamespace] = []
        self.refuses = False
        self.on_point: Callable[[], None] = lambda: None

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **options: Any) -> SimpleNamespace:
        if self.refuses:
            raise self.Error("no API key configured.")
        run = SimpleNamespace(options=options, id=options["id"] or f"id{len(self.runs)}", points=[], summary={})
        run.define_metric = lambda name, step_metric: None
        run.log = lambda point: (run.points.append(point), self.on_point())
        run.exit_codes = []
        run.finish = lambda exit_code: run.exit_codes.append(exit_code)
        self.runs.append(run)
        return run


def begin_and_leave(directory: Path, project: str) -> str:
    """A start of a run that logs one step; the id of its copy."""
    copy = join_project(replace(tiny(), out=str(directory), logging=LoggingConfig(wandb=project)))
    with closing(RunLog(directory, log_every=1, stream=io.StringIO(), sink=copy)) as log:
        log.event(EVENT, project=project, run_id=copy.run_id)
        log.step(Step("main", 1, 2, {"loss": 1.0, "lr": 0.1}, 10, 1, 0.5, 0.1))
    return copy.run_id


@pytest.fixture
def wandb(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return stand_in


def test_settings_and_records_are_sent_and_a_resumed_run_goes_on(wandb, tmp_path):
    out = tmp_path / "named"
    assert main([*TINY, "--out", str(out), "--logging.wandb", "snails", "--max_minutes", "1e-9"]) == 0  # one step
    assert main([*TINY, "--out", str(out), "--logging.wandb", "snails"]) == 0
    first, second = wandb.runs
    assert first.options["project"] == "snails"
    assert first.options["name"] == "named"
    assert first.options["dir"] == str(out)
    assert first.options["config"]["data"]["num_rows"] > 0
    assert (first.options["id"], second.options["id"]) == (None, "id0")
    records = [record for record in read_log(out) if "step" in record and "event" not in record]
    points = first.points + second.points
    assert [point["step"] for point in points] == [1, 2, 3, 4]
    for point, record in zip(points, records, strict=True):
        expected = {f"main/{k}": v for k, v in record.items() if k not in ("phase", "step") and v is not None}
        assert point == {**expected, "step": record["step"]}
    assert first.summary["paused"]["step"] == 1
    assert second.summary["done"]["step"] == 4
    assert (first.exit_codes, second.exit_codes) == ([0], [0])


def test_a_run_that_a_signal_stops_has_failed_until_it_goes_on(wandb, tmp_path):
    wandb.on_point = lambda: os.kill(os.getpid(), signal.SIGTERM)
    command = [*TINY, "--out", str(tmp_path / "run"), "--logging.wandb", "snails"]
    assert main(command) == 3
    wandb.on_point = lambda: None
    assert main(command) == 0
    assert [run.exit_codes for run in wandb.runs] == [[1], [0]]


def test_a_run_that_an_error_ends_has_failed(wandb, tmp_path, monkeypatch):
    def broken() -> None:
        raise ConnectionError("no route")

    wandb.on_point = broken
    with pytest.raises(ConnectionError, match="no route"):
        main([*TINY, "--out", str(tmp_path / "unexpected"), "--logging.wandb", "snails"])
    wandb.on_point = lambda: None
    losses = MMInterleaved.text_losses
    monkeypatch.setattr(MMInterleaved, "text_losses", lambda *arguments: losses(*arguments) * float("nan"))
    never = ("--max_skipped_in_a_row", "0")
    assert main([*TINY, *never, "--out", str(tmp_path / "nan"), "--logging.wandb", "snails"]) == 1
    assert [run.exit_codes for run in wandb.runs] == [[1], [1]]


def test_another_project_gets_a_run_of_its_own(wandb, tmp_path):
    for project in ("snails", "keys", "snails"):
        begin_and_leave(tmp_path, project)
    assert [run.options["id"] for run in wandb.runs] == [None, None, "id0"]


def test_without_the_package_nothing_begins(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*TINY, "--out", str(tmp_path / "run"), "--logging.wandb", "snails"]) == 2
    assert "logging.wandb is 'snails', and the package is missing: pip install 'mmfs[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refusal_ends_the_command_with_a_sentence(wandb, tmp_path, capsys):
    wandb.refuses = True
    assert main([*TINY, "--out", str(tmp_path / "run"), "--logging.wandb", "snails"]) == 2
    said = capsys.readouterr().err
    assert "wandb refuses the run of project 'snails': no API key configured. Log in" in said
    wandb.refuses = False
    assert (
        main([*TINY, "--out", str(tmp_path / "run"), "--logging.wandb", "snails", "--num_steps", "1"]) == 2
    )  # not another run
    assert main([*TINY, "--out", str(tmp_path / "run"), "--logging.wandb", ""]) == 2
    assert "logging.wandb is empty; expected the name of a project" in capsys.readouterr().err


def test_the_real_package_keeps_a_run_without_a_network(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="pip install 'mmfs[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, second = (begin_and_leave(tmp_path, "snails") for _ in range(2))
    assert first == second
    kept = [file.name for file in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert kept == [f"run-{first}.wandb"] * len(kept)
    assert kept
