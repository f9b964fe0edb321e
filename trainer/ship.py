"""`python -m trainer.ship RUN --out trainer/weights/toy`: a finished run, small enough to travel with the repository.

The weights are stored in half precision (`MMInterleaved.from_pretrained` widens them), the loss log is thinned, and
`training.json` says how they were made.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from models.mm_interleaved import WEIGHTS_FILE
from trainer import pretrain
from trainer.evaluate import environment
from trainer.metrics import LOG, read_log

PROGRAM = "python -m trainer.ship"
TRAINING_FACTS = "training.json"
POINTS = 300
"""Points of each phase that the thinned log keeps; each is the mean of the steps it stands for."""


def ship(run: Path, out: Path, command: str) -> None:
    """Write the model of `run`, its thinned log and what is known of its making to `out`.

    Raises:
        FileNotFoundError: the run holds no model yet.
    """
    model = run / pretrain.MODEL
    if not (model / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{run} holds no {pretrain.MODEL}/{WEIGHTS_FILE}; ship a run that has ended or paused.")
    shutil.copytree(model, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS_FILE, "samples"))
    weights = {name: w.half() if w.is_floating_point() else w for name, w in load_file(model / WEIGHTS_FILE).items()}
    save_file(weights, out / WEIGHTS_FILE, metadata={"format": "pt"})
    records = list(read_log(run))
    steps = [record for record in records if "phase" in record and "loss" in record]
    thinned = [point for phase in dict.fromkeys(r["phase"] for r in steps) for point in thin(steps, phase)]
    (out / LOG).write_text("".join(json.dumps(point) + "\n" for point in thinned), encoding="utf-8")
    facts = {
        "command": command,
        "steps": {phase: max(r["step"] for r in steps if r["phase"] == phase) for phase in {r["phase"] for r in steps}},
        "minutes": round(sum(record.get("step_s", 0.0) for record in steps) / 60, 1),
        "environment": environment(),
    }
    (out / TRAINING_FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def thin(steps: Sequence[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    """At most `POINTS` records of a phase, each with the mean losses of the steps up to it since the one before."""
    own = [record for record in steps if record["phase"] == phase]
    every = -(-len(own) // POINTS)
    points = []
    for end in range(every, len(own) + every, every):
        piece = own[end - every : end]
        means: dict[str, Any] = {"phase": phase, "step": piece[-1]["step"]}
        for name in ("loss", "loss_text", "loss_image", "accuracy_sprites", "accuracy_digits"):
            if values := [record[name] for record in piece if record.get(name) is not None]:
                means[name] = round(sum(values) / len(values), 5)
        points.append(means)
    return points


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("run", type=Path, help="a run directory of trainer.pretrain")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--command", required=True, help="what the run was started with, for training.json")
    given = parser.parse_args(arguments)
    try:
        ship(given.run, given.out, given.command)
    except FileNotFoundError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    size_mb = (given.out / WEIGHTS_FILE).stat().st_size / 1e6
    print(f"wrote {given.out} ({size_mb:.1f} MB of weights)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
