"""`python -m trainer.ship RUN --out trainer/weights/toy`: a finished run, small enough to travel with the repository.

Where one run went on from another, all are named in the order they were made, and the last one's model travels, in half
precision (`MMInterleaved.from_pretrained` widens it). The loss log is thinned, and `training.json` says how the weights
were made. Of the same model trained without MMFS only the scores travel, and what it wrote to which held-out document,
which the demo shows: `without_mmfs.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.json_files import write_json
from models.program import explained, run_program
from models.urls import local_path
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.logging.log_file import read_log
from trainer.process.environment import environment
from trainer.run_files import LOG, MODEL

PROGRAM = "python -m trainer.ship"
TRAINING_FACTS = "training.json"
WITHOUT_MMFS = "without_mmfs.json"
SCORES = "scores.json"
"""In the run directory of the model without MMFS: what `python -m trainer.evaluate` wrote."""

POINTS = 300
"""Points of each phase that the thinned log keeps; each is the mean of the steps it stands for."""


def ship(runs: Sequence[Path], out: Path, command: str) -> None:
    """Write the model of the last run, the thinned log of all and what is known of its making to `out`.

    Raises:
        FileNotFoundError: the last run holds no model yet.
    """
    from safetensors.torch import load_file, save_file  # here, for --help needs no PyTorch

    from models.digests import write_digests
    from models.tensor_files import WEIGHTS_FILE

    run = runs[-1]
    model = run / MODEL
    if not (model / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{run} holds no {MODEL}/{WEIGHTS_FILE}; ship a run that has ended or paused.")
    shutil.copytree(model, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS_FILE))
    weights = {name: w.half() if w.is_floating_point() else w for name, w in load_file(model / WEIGHTS_FILE).items()}
    save_file(weights, out / WEIGHTS_FILE, metadata={"format": "pt"})
    write_digests(out)
    steps = steps_of(runs)
    thinned = [point for phase in dict.fromkeys(r["phase"] for r in steps) for point in thin(steps, phase)]
    (out / LOG).write_text("".join(json.dumps(point) + "\n" for point in thinned), encoding="utf-8")
    write_json(out / TRAINING_FACTS, training_facts(steps, command))


def steps_of(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The steps in the logs of runs that went on from one another, each phase counted through."""
    steps: list[dict[str, Any]] = []
    for run in runs:
        before = {record["phase"]: record["step"] for record in steps}
        for record in read_log(run):
            if "phase" in record and "loss" in record:
                steps.append(record | {"step": before.get(record["phase"], 0) + record["step"]})
    return steps


def ship_scores_without_mmfs(runs: Sequence[Path], out: Path, command: str) -> None:
    """Write the scores and written answers of the last run, whose model has no MMFS, and how it was made, to `out`.
    Drawn images are not among what an evaluation keeps.

    Raises:
        FileNotFoundError: the last run has not been evaluated yet.
        ValueError: its model has MMFS.
    """
    run = runs[-1]
    if not (run / SCORES).is_file():
        raise FileNotFoundError(
            f"{run} holds no {SCORES}; make it: python -m trainer.evaluate {run / MODEL} --out {run / SCORES}"
        )
    scores = json.loads((run / SCORES).read_text(encoding="utf-8"))
    if scores["weights"]["has_mmfs"]:
        raise ValueError(f"{run / SCORES} is of a model with MMFS; expected one that was trained without.")
    for task, result in scores["tasks"].items():
        documents = result.pop("documents")
        if EVALUATION_TASKS[task].kind == "text":
            result["answers"] = {document["key"]: document["answer"] for document in documents}
    write_json(out / WITHOUT_MMFS, {"training": training_facts(steps_of(runs), command), **scores})


def training_facts(steps: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    """The command, the steps and the time of each phase, and where it ran."""
    phases = dict.fromkeys(record["phase"] for record in steps)
    return {
        "command": command,
        "steps": {phase: max(r["step"] for r in steps if r["phase"] == phase) for phase in phases},
        "minutes": round(sum(record.get("step_s", 0.0) for record in steps) / 60, 1),
        "environment": environment(),
    }


def thin(steps: Sequence[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    """At most `POINTS` records of a phase, each with the mean losses of the steps up to it since the one before."""
    own = [record for record in steps if record["phase"] == phase]
    every = -(-len(own) // POINTS)
    points = []
    for end in range(every, len(own) + every, every):
        piece = own[end - every : end]
        means: dict[str, Any] = {"phase": phase, "step": piece[-1]["step"]}
        for name in (n for n in piece[0] if n.startswith(("loss", "accuracy"))):
            if values := [record[name] for record in piece if record.get(name) is not None]:
                means[name] = round(sum(values) / len(values), 5)
        points.append(means)
    return points


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "runs",
        type=local_path,
        nargs="+",
        metavar="RUN",
        help="run directories of trainer.pretrain, in the order they were made",
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR")
    parser.add_argument("--command", required=True, help="what the runs were started with, for training.json")
    parser.add_argument(
        "--without-mmfs",
        type=local_path,
        nargs="+",
        metavar="RUN",
        help="runs of the same model without MMFS, the last evaluated",
    )
    parser.add_argument("--without-mmfs-command", metavar="COMMAND", help="what those were started with")
    given = parser.parse_args(arguments)
    if (given.without_mmfs is None) != (given.without_mmfs_command is None):
        parser.error("--without-mmfs and --without-mmfs-command come together.")
    try:
        ship(given.runs, given.out, given.command)
        if given.without_mmfs is not None:
            ship_scores_without_mmfs(given.without_mmfs, given.out, given.without_mmfs_command)
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    from models.tensor_files import WEIGHTS_FILE

    size_mb = (given.out / WEIGHTS_FILE).stat().st_size / 1e6
    print(f"wrote {given.out} ({size_mb:.1f} MB of weights)")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
