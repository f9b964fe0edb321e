"""The model in a directory: which weights it has, and which world it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import MMInterleaved
from models.digests import file_sha256
from models.tensor_files import WEIGHTS_FILE
from trainer.config import TrainConfig
from trainer.data.config import DataConfig
from trainer.options.parser import load
from trainer.recipes import ALL_RECIPES, DEFAULT_RECIPE


def describe_weights(model_dir: Path, model: MMInterleaved) -> dict[str, Any]:
    """Which weights a directory holds."""
    return {
        "sha256": file_sha256(model_dir / WEIGHTS_FILE),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "has_mmfs": model.config.language_model.mmfs is not None,
    }


def world_of(model_dir: Path, config_file: Path | None) -> DataConfig:
    """The world that a model is evaluated in: of the given settings, else of its run, else of the default recipe."""
    beside = model_dir.parent / "config.yaml"
    file = config_file if config_file is not None else beside if beside.is_file() else None
    config: TrainConfig = load(file, ALL_RECIPES) if file is not None else ALL_RECIPES[DEFAULT_RECIPE]()
    return config.data
