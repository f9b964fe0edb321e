"""Names of the files in a run directory."""

from __future__ import annotations

SETTINGS = "config.yaml"
"""The settings as `trainer.options.parser.dump` writes them, for `--config`."""

LOG = "log.jsonl"
"""Every step and event of the run, one JSON object a line."""

TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
MODEL = "model"
"""The trained model, for `MMInterleaved.from_pretrained`."""

SAMPLES = "samples"
"""A PNG for each sampled step."""

PAGE = "index.html"
"""The curves of the run; `trainer.run_page` writes it."""

PROFILE = "profile"
"""Traces of the steps that `profile` names."""

HANG = "hang"
"""What each process did when a run hung: stacks, and the last collective operations (`torchfrtrace`)."""

ROW_STARTS = "row_starts"
"""A directory in which the processes of a run tell each other where rows begin in the order of the data."""

QUARANTINE = "quarantine.jsonl"
"""What of the corpus is broken, one JSON object a line."""
