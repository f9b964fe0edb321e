"""The pre-trained visual tokenizers that runs begin with: the same for all arms of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from models import MMInterleaved
from models.tensor_files import WEIGHTS_FILE
from trainer.ablation.plan import Run
from trainer.ablation.scales import Scale
from trainer.config import TrainConfig
from trainer.run import make_run
from trainer.run_directory import is_finished, save_model
from trainer.run_files import MODEL

ENCODER = "encoder"
RESAMPLER_SEED = 0
"""New resamplers are the same for all runs that have one, with and without MMFS."""


def pretrained_encoder(scale: Scale, out: Path, max_minutes: float | None) -> int | None:
    """See to it that there is a pre-trained visual tokenizer: made now where the scale brings none.

    Returns:
        0 when it is there, None when `max_minutes` ended first, else the exit code of the training that was stopped.
    """
    run = out / ENCODER
    if scale.encoder is not None or is_finished(run):
        return 0
    config = replace(scale.recipe(), out=str(run), num_steps=0, max_minutes=max_minutes, num_workers=scale.num_workers)
    status = make_run(config)
    return status if status or is_finished(run) else None


def start_of(run: Run, encoder: Path, out: Path) -> Path:
    """The model that a run begins with; `make_start` writes those that are not the pre-trained encoder itself."""
    if run.arm.keeps_language_model:
        return out / run.place / "start"
    if run.arm.num_visual_tokens is not None:
        return out / f"{ENCODER}_{run.arm.num_visual_tokens}_tokens"
    return encoder


def make_start(run: Run, config: TrainConfig, encoder: Path, out: Path) -> None:
    """Write what a run begins with, where it is not there yet.

    Args:
        run: whose start it is.
        config: its settings.
        encoder: a model with a pre-trained visual tokenizer.
        out: the directory of all runs, among them, for a run that keeps its language model, the one without MMFS.
    """
    start = start_of(run, encoder, out)
    if start == encoder or (start / WEIGHTS_FILE).is_file():
        return
    trained = MMInterleaved.from_pretrained(encoder)
    torch.manual_seed(run.seed if run.arm.keeps_language_model else RESAMPLER_SEED)
    model = MMInterleaved(config.model, trained.processor)
    seeing, trained_seeing = model.visual_tokenizer, trained.visual_tokenizer
    if run.arm.num_visual_tokens is None:
        seeing.load_state_dict(trained_seeing.state_dict())
    else:
        seeing.adapter.load_state_dict(trained_seeing.adapter.state_dict())
    if run.arm.keeps_language_model:
        read = MMInterleaved.from_pretrained(out / run.without_mmfs().place / MODEL)
        model.language_model.host.load_state_dict(read.language_model.host.state_dict())
        model.load_state_dict({"begin_of_image": read.begin_of_image}, strict=False)
    start.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, start)
